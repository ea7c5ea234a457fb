"""A Space: a visitor gives something and sees what each peer says of it, before and after the training.

`hf-mutual-kd space` copies this file and those beside it next to `data/`, which holds what there is to show. They need
gradio, torch, transformers, Pillow, for videos PyAV, and not the package they were copied from. `python app.py` starts
the app.
"""

from __future__ import annotations

import html
import os
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from answer import alert
from gradio.utils import get_upload_folder
from peers import Cohort
from PIL import Image
from starlette.middleware import Middleware
from uploads import MOST_PIXELS, BoundedUploads, Refused

WAITING = 16
"""Visitors who may wait in line."""
FONTS = ["Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
"""None that is fetched."""

SAMPLES = Path("data", "samples")


def uploads_folder() -> Path:
    """Where gradio keeps what visitors send."""
    return Path(get_upload_folder())


def ask(cohort: Cohort, subject: str | None, truth: Any) -> str:
    """The whole answer as HTML, also where something was refused."""
    try:
        given = cohort.view.read(cohort.view.admit(subject, [uploads_folder(), cohort.folder / SAMPLES]), truth)
    except Refused as refusal:
        return alert(str(refusal))
    parts = cohort.view.answer(given, cohort.look(given))
    return f'<div class="mk" role="status">{"".join(parts)}</div>'


def build(cohort: Cohort) -> gr.Blocks:
    """The page."""
    facts, view = cohort.facts, cohort.view
    with gr.Blocks(title=facts["title"], analytics_enabled=False, delete_cache=(600, 3600)) as page:
        intro = "".join(f"<p>{html.escape(text)}</p>" for text in facts["intro"])
        gr.HTML(f'<div class="mk"><h1>{html.escape(facts["title"])}</h1>{intro}</div>')
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                subject, truth = view.subject_input(), view.truth_input()
                button = gr.Button("Ask the peers", variant="primary", elem_id="ask")
                samples = facts["samples"]
                if samples:
                    picked = gr.Dataset(
                        components=[view.sample_component],
                        samples=[[view.sample_shown(sample)] for sample in samples],
                        type="index",
                        elem_id="samples",
                        label=facts["samples_label"],
                        samples_per_page=12,
                    )
            with gr.Column(scale=3, min_width=300):
                hint = f"Give {facts['thing']}, or pick a sample: what each peer says of it appears here."
                result = gr.HTML(f'<div class="mk"><p class=soft>{hint}</p></div>', elem_id="result")
        ask_peers = partial(ask, cohort)
        run: Any = {"concurrency_id": "peers", "concurrency_limit": 1, "api_visibility": "private"}
        run["scroll_to_output"] = True  # On a phone the answer is below what was touched.
        button.click(ask_peers, [subject, truth], result, **run)
        empty = view.no_truth
        view.replaced(subject)(lambda: empty, None, truth, queue=False, api_visibility="private")
        if hasattr(subject, "clear"):
            subject.clear(lambda: (empty, ""), None, [truth, result], queue=False, api_visibility="private")
        if samples:
            values = [view.sample_value(sample) for sample in samples]
            chosen = picked.click(
                lambda index: (values[index], samples[index]["truth"]),
                picked,
                [subject, truth],
                queue=False,
                api_visibility="private",
            )
            chosen.then(ask_peers, [subject, truth], result, **run)
    return page


def main(folder: Path) -> None:
    """Serve the app; on Spaces, gradio's environment says where."""
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    cohort = Cohort(folder)
    page = build(cohort).queue(max_size=WAITING, default_concurrency_limit=1)
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=FONTS, font_mono=["Consolas", "monospace"])
    theme.set(button_primary_background_fill="#0b62a4", button_primary_background_fill_dark="#0b62a4")
    bounded = Middleware(BoundedUploads, folder=uploads_folder(), most_file=cohort.view.most_file)
    page.launch(
        theme=theme,
        css_paths=[folder / "style.css"],
        allowed_paths=[str(folder / SAMPLES)],
        max_file_size=cohort.view.most_file,
        app_kwargs={"middleware": [bounded]},
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
    )


if __name__ == "__main__":
    main(Path(__file__).resolve().parent)
