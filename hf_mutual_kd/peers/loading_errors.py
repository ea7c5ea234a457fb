"""What transformers and the Hub raise while a peer is loaded, as one message with the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from ..config.places import near_path
from ..errors import PeerError, chain_of
from .weight_files import OddWeightsError

if TYPE_CHECKING:
    from .spec import PeerSpec


class peer_errors:
    """Turns what transformers and the Hub raise while a peer is loaded into a [`PeerError`] with the way out.

    Every exception, as a damaged configuration can raise any: a size that is a text, a number of classes that no
    memory holds.
    """

    def __init__(self, name: str, spec: PeerSpec):
        self.name, self.spec = name, spec

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if error is None or isinstance(error, PeerError) or not isinstance(error, Exception):
            return
        causes = chain_of(error)
        at = f" at revision {self.spec.revision}" if self.spec.revision else ""
        raise PeerError(f"peer {self.name!r}: {self._explain(causes, at)}") from error

    def _explain(self, causes: list[BaseException], at: str) -> str:
        source, text = self.spec.source, " ".join(map(str, causes))
        if isinstance(causes[0], OddWeightsError):
            return f"{source}{at}: {causes[0]}"
        if any(isinstance(cause, GatedRepoError) for cause in causes):
            return f"{source} is gated; ask for access on its page, then `hf auth login`"
        if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
            return f"{source} has no revision {self.spec.revision}"
        if any(isinstance(cause, RepositoryNotFoundError | HFValidationError) for cause in causes):
            what = f"neither a folder{near_path(source)} nor a model on the Hub{at}"
            return f"{source} is {what}; if it is private, `hf auth login` first"
        if "trust_remote_code" in text:
            return f"{source} brings its own code; read it, then allow it with --trust_remote_code true"
        if "bitsandbytes" in text and any(isinstance(cause, ImportError) for cause in causes):
            return f"{source} in 4 or 8 bits needs bitsandbytes; `pip install bitsandbytes`"
        if "timm" in text and any(isinstance(cause, ImportError) for cause in causes):
            return f"{source} is a timm model; `pip install timm`"
        if "file named model.safetensors" in text or ("safetensors" in text and ".bin" in text):
            return f"{source}{at} brings no weights as safetensors; pickled ones (.bin) are never read, convert them"
        return f"cannot load {source}{at}: {' '.join(str(causes[0]).split()) or type(causes[0]).__name__}"
