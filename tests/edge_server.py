"""Runs commands in forks of one process that has imported everything: a JSON object a line in, one a line out."""

import contextlib
import io
import json
import os
import resource
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    import torch

    torch.set_num_threads(1)
    import datasets  # noqa: F401
    import evaluate  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import peft  # noqa: F401
    import transformers.models.auto.modeling_auto  # noqa: F401

    import hf_mutual_kd.cli.main
    import hf_mutual_kd.experiments.experiment
    import hf_mutual_kd.experiments.run_suite
    import hf_mutual_kd.hub.push
    import hf_mutual_kd.scoring.score_peers  # noqa: F401

    # Ignored where a shell started the tests in the background; Python then leaves it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os._exit(run(job))
        code = wait(child, job["timeout"])
        print(json.dumps({"code": code, "seconds": time.monotonic() - began}), file=answers, flush=True)


def wait(child: int, seconds: float) -> int | None:
    """The exit code as a shell shows it; `None` where the time was over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def run(job: dict) -> int:
    """Become the command: its folder, its variables, its streams; returns its exit code."""
    os.setsid()
    os.chdir(job["folder"])
    os.environ.update(job["env"])
    for number, name in ((0, os.devnull), (1, job["stdout"]), (2, job["stderr"])):
        opened = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding=job["encoding"])
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace", line_buffering=True)
    if job["file_size"]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
    try:
        start(job)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if not isinstance(stop.code, int | None):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        code = 120
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    return code


def start(job: dict) -> None:
    program, *words = job["words"]
    if program == "python":
        exec(compile(words[0], "the user's script", "exec"), {"__name__": "__main__"})
    elif program == "hf-mutual-kd":
        sys.exit(sys.modules["hf_mutual_kd.cli.main"].main(words))
    else:
        script = str(ROOT / "recipes" / f"{program}.py")
        sys.argv = [script, *words]
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
