"""The commands `hf-mutual-kd saliency …`; what is heavy is imported when one runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..config.fields import option
from ..config.options import OnBadRow
from ..config.rules import COUNT, NOT_NEGATIVE

if TYPE_CHECKING:
    from ..tasks.video_saliency.model.modeling_video_saliency import VideoSaliencyModel
    from ..tasks.video_saliency.model.processing_video_saliency import VideoSaliencyProcessor


@dataclass
class EvaluateOptions:
    """Options of `saliency evaluate`."""

    predictions: str = option(
        "data",
        "",
        "Folder of VIDEO/FRAME.png (8 or 16 bits) or .npy, of any model.",
        positional=True,
        required=True,
        metavar="PREDICTIONS",
    )
    ground_truth: str = option(
        "data",
        "",
        "Folder of VIDEO/maps and VIDEO/fixation (images or .mat).",
        positional=True,
        required=True,
        metavar="GROUND_TRUTH",
    )
    layout: Literal["dhf1k", "hollywood2", "ucf", "frames"] = option(
        "data", "dhf1k", "Of the ground truth; frames: one video, maps and fixation themselves."
    )
    videos: list[str] = option("data", [], "Only these, by name or pattern such as '06*'.", metavar="NAME …")
    fixation_maxima: bool = option(
        "data", False, "Of fixation files that hold greys, as after JPEG or smoothing, take the local maxima."
    )
    on_bad_frame: OnBadRow = option("data", "raise", "About missing, surplus, unreadable and wrongly sized files.")
    protocol: Literal["raw", "dhf1k"] = option(
        "run", "raw", "dhf1k: first resize, blur and write to 8 bits, as that server sees maps."
    )
    resize: bool = option("run", False, "Bring predictions of another size to the truth's.")
    metrics: list[str] | None = option(
        "run",
        None,
        "Of auc_judd auc_uniform auc_shuffled nss cc sim kld ig; all (ig with --baseline) if unset.",
        metavar="NAME …",
    )
    sim: Literal["mit", "tuebingen"] = option("run", "mit", "mit stretches maps to 0..1 before SIM.")
    nss_ddof: Literal[0, 1] = option("run", 1, "Of NSS' standard deviation: 1 MIT, 0 Tuebingen.")
    baseline: str | None = option(
        "run", None, "Density for ig (.npy or image), such as a centre prior.", metavar="MAP"
    )
    shuffled_pool: str = option(
        "run",
        "others",
        "Negatives of auc_shuffled: fixations of all other videos, or of a folder of this layout.",
        metavar="others|none|FOLDER",
    )
    json: str | None = option("output", None, "Also write everything to this file.", metavar="OUT")


def run_evaluate(options: EvaluateOptions) -> None:
    """Score folders of maps, print the table, write the JSON."""
    from pathlib import Path

    from ..errors import DataError
    from ..files import write_json
    from ..tasks.video_saliency.data.map_files import read_map
    from ..tasks.video_saliency.metrics.scores import SaliencyScores
    from ..tasks.video_saliency.score_folders import GroundTruth, evaluate_folders, scores_table, without_nan

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
        GroundTruth(
            options.ground_truth,
            layout=options.layout,
            videos=options.videos,
            fixation_maxima=options.fixation_maxima,
        ),
        scores,
        shuffled_pool=options.shuffled_pool,
        on_bad_frame=options.on_bad_frame,
    )
    print(scores_table(result))
    if options.json:
        write_json(Path(options.json), without_nan(result))


@dataclass
class PredictOptions:
    """Options of `saliency predict`."""

    video: str = option(
        "data",
        "",
        "Video file, or folder of images in numerical order.",
        positional=True,
        required=True,
        metavar="VIDEO",
    )
    model: str = option("peers", "", "A video saliency model.", required=True, metavar="ID_OR_FOLDER[@REVISION]")
    trust_remote_code: bool = option("peers", False, "Run code that comes with the model.")
    out: str = option(
        "output",
        "",
        "Video with the map over it, or a new folder for that, maps (16 bits) and density (8 bits).",
        required=True,
        metavar="OUT.mp4|FOLDER",
    )
    maps: Literal["png", "npy"] = option("output", "png", "How a folder's maps are written.")
    start: Literal["repeat", "reverse"] = option(
        "run", "repeat", "Before a shot's first frame comes itself, or what follows in reverse."
    )
    stride: int = option("run", 1, "Predict every so many frames, the others keep the last map.", rule=COUNT)
    cut_threshold: float = option(
        "run", 0.5, "Change of colours, 0 to 1, from which a new shot begins; above 1: never.", rule=NOT_NEGATIVE
    )
    batch_size: int = option("machine", 1, "Clips predicted at once.", rule=COUNT)
    device: str | None = option("machine", None, "Such as cpu or cuda:0; a GPU where there is one when left out.")


def run_predict(options: PredictOptions) -> None:
    """Predict every frame of a video, write overlay or maps, say how many frames there were."""
    from ..tasks.video_saliency.predict import check_out, predict_video
    from ..tasks.video_saliency.streaming import Streaming

    check_out(options.out)
    model, processor = load_for_prediction(options.model, options.trust_remote_code, options.device)
    count = predict_video(
        model,
        processor,
        video=options.video,
        out=options.out,
        map_format=options.maps,
        streaming=Streaming(
            start=options.start,
            stride=options.stride,
            cut_threshold=options.cut_threshold,
            batch_size=options.batch_size,
        ),
    )
    print(f"{count} frames → {options.out}")


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
