"""The command `hf-mutual-kd saliency`: a table of its own commands; what is heavy is imported when one runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..tasks.video_saliency.model.modeling_video_saliency import VideoSaliencyModel
    from ..tasks.video_saliency.model.processing_video_saliency import VideoSaliencyProcessor


class Subcommand(NamedTuple):
    """One command: its line of help, what adds its options, what runs it."""

    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def add_saliency_options(parser: argparse.ArgumentParser) -> None:
    """The commands of `saliency`, each with its options."""
    commands = parser.add_subparsers(dest="saliency_command", required=True, metavar="COMMAND")
    for name, command in SUBCOMMANDS.items():
        command.add_options(commands.add_parser(name, help=command.help, description=command.help))


def run_saliency(options: argparse.Namespace) -> None:
    """Run one command of `saliency`."""
    SUBCOMMANDS[options.saliency_command].run(options)


def add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    """Options of `saliency evaluate`."""
    add = parser.add_argument
    add("predictions", metavar="PREDICTIONS", help="folder of VIDEO/FRAME.png (8 or 16 bits) or .npy, of any model")
    add("ground_truth", metavar="GROUND_TRUTH", help="folder of VIDEO/maps and VIDEO/fixation (images or .mat)")
    add(
        "--layout",
        default="dhf1k",
        choices=("dhf1k", "hollywood2", "ucf", "frames"),
        help="of the ground truth; frames: one video, maps and fixation themselves (default: dhf1k)",
    )
    add(
        "--protocol",
        default="raw",
        choices=("raw", "dhf1k"),
        help="dhf1k: first resize, blur and write to 8 bits, as that server sees maps (default: raw)",
    )
    add("--resize", action="store_true", help="bring predictions of another size to the truth's")
    add(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="of auc_judd auc_uniform auc_shuffled nss cc sim kld ig; all (ig with --baseline) if unset",
    )
    add(
        "--sim",
        default="mit",
        choices=("mit", "tuebingen"),
        help="mit stretches maps to 0..1 before SIM (default: mit)",
    )
    add("--nss_ddof", type=int, default=1, choices=(0, 1), help="of NSS' standard deviation: 1 MIT, 0 Tuebingen")
    add("--baseline", metavar="MAP", help="density for ig (.npy or image), such as a centre prior")
    add(
        "--shuffled_pool",
        default="others",
        metavar="others|none|FOLDER",
        help="negatives of auc_shuffled: fixations of all other videos, or of a folder of this layout",
    )
    add("--videos", nargs="+", default=(), metavar="NAME", help="only these, by name or pattern such as '06*'")
    add(
        "--on_bad_frame",
        default="raise",
        choices=("raise", "skip"),
        help="about missing, surplus, unreadable and wrongly sized files (default: raise)",
    )
    add("--json", metavar="OUT", help="also write everything to this file")


def run_evaluate(options: argparse.Namespace) -> None:
    """Score folders of maps, print the table, write the JSON."""
    from pathlib import Path

    from ..errors import DataError
    from ..files import write_json
    from ..tasks.video_saliency.data.map_files import read_map
    from ..tasks.video_saliency.metrics.scores import SaliencyScores
    from ..tasks.video_saliency.score_folders import describe, evaluate_folders, without_nan

    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise DataError(f"--json {options.json}: no such folder; make it first")
    try:
        baseline = read_map(Path(options.baseline)) if options.baseline else None
    except DataError as error:
        raise DataError(f"--baseline {options.baseline}: {error}") from None
    scores = SaliencyScores(
        metrics=options.metrics,
        protocol=options.protocol,
        resize=options.resize,
        sim=options.sim,
        ddof=options.nss_ddof,
        baseline=baseline,
    )
    result = evaluate_folders(
        options.predictions,
        options.ground_truth,
        scores,
        layout=options.layout,
        shuffled_pool=options.shuffled_pool,
        videos=options.videos,
        on_bad_frame=options.on_bad_frame,
    )
    print(describe(result))
    if options.json:
        write_json(Path(options.json), without_nan(result))


def add_predict_options(parser: argparse.ArgumentParser) -> None:
    """Options of `saliency predict`."""
    add = parser.add_argument
    add("video", metavar="VIDEO", help="video file, or folder of images in numerical order")
    add("--model", required=True, metavar="ID_OR_FOLDER[@REVISION]", help="a video saliency model")
    add(
        "--out",
        required=True,
        metavar="OUT.mp4|FOLDER",
        help="video with the map over it, or a new folder for that, maps (16 bits) and density (8 bits)",
    )
    add("--maps", default="png", choices=("png", "npy"), help="how a folder's maps are written (default: png)")
    add(
        "--start",
        default="repeat",
        choices=("repeat", "reverse"),
        help="before a shot's first frame comes itself, or what follows in reverse (default: repeat)",
    )
    add(
        "--stride", type=int, default=1, help="predict every so many frames, the others keep the last map (default: 1)"
    )
    add(
        "--cut_threshold",
        type=float,
        default=0.5,
        help="change of colours, 0 to 1, from which a new shot begins; above 1: never (default: 0.5)",
    )
    add("--batch_size", type=int, default=1, help="clips predicted at once (default: 1)")
    add("--device", help="such as cpu or cuda:0; a GPU where there is one when left out")
    add("--trust_remote_code", action="store_true", help="run code that comes with the model")


def run_predict(options: argparse.Namespace) -> None:
    """Predict every frame of a video, write overlay or maps, say how many frames there were."""
    from ..tasks.video_saliency.predict import check_out, predict_video

    check_out(options.out)
    model, processor = load_for_prediction(options.model, options.trust_remote_code, options.device)
    count = predict_video(
        model,
        processor,
        options.video,
        options.out,
        map_format=options.maps,
        start=options.start,
        stride=options.stride,
        cut_threshold=options.cut_threshold,
        batch_size=options.batch_size,
    )
    print(f"{count} frames → {options.out}")


SUBCOMMANDS = {
    "predict": Subcommand("Predict where people look in a video.", add_predict_options, run_predict),
    "evaluate": Subcommand(
        "Score folders of saliency maps against a ground truth.", add_evaluate_options, run_evaluate
    ),
}


def load_for_prediction(
    source: str, trust_remote_code: bool = False, device: str | None = None
) -> tuple[VideoSaliencyModel, VideoSaliencyProcessor]:
    """A model and its processor from a folder or the Hub.

    Args:
        source (`str`): `ID_OR_FOLDER[@REVISION]`.
        trust_remote_code (`bool`, *optional*, defaults to `False`): run the code that comes with it; models of this
            package need none.
        device (`str`, *optional*): a GPU where there is one, when unset.

    Raises:
        [`PeerError`]: it cannot be loaded, or is no video saliency model.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoProcessor

    from ..errors import PeerError
    from ..peers.spec import PeerSpec
    from ..peers.weight_files import check_weight_files
    from ..tasks.video_saliency.model import auto  # noqa: F401

    spec = PeerSpec.parse(source)
    code = {"revision": spec.revision, "trust_remote_code": trust_remote_code}
    try:
        check_weight_files(spec.source, spec.revision, AutoConfig.from_pretrained(spec.source, **code))
        model = AutoModel.from_pretrained(spec.source, use_safetensors=True, **code)
        processor = AutoProcessor.from_pretrained(spec.source, **code)
        model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except Exception as error:  # a damaged configuration can raise any, and torch asserts that it was built with CUDA
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PeerError(f"model {source!r} cannot be loaded: {reason}") from error
    if model.config.model_type != "video_saliency":
        raise PeerError(f"model {source!r} is a {type(model).__name__}, not a video saliency model")
    return model, processor
