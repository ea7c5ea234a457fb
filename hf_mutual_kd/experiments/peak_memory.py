"""How much memory a training needed."""

from __future__ import annotations

from pathlib import Path

import torch


def forget_peak() -> None:
    """Begin to measure anew: on CUDA torch's own peak, on Linux the process'."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    forget = Path("/proc/self/clear_refs")
    if forget.is_file():
        forget.write_text("5")


def peak_memory() -> int | None:
    """Bytes at most in use since [`forget_peak`]: of the GPU where there is one; `None` where nothing says."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(lines[0].split()[1]) if lines else None
