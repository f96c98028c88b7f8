"""Sequence embeddings by ESM-2 (Lin et al. 2023), computed once and kept on disk.

One vector per residue: the last hidden state of ESM-2 at that residue, without the tokens that mark
start and end.  Each chain is embedded by itself.  The file of a cached embedding is named by a hash
of the sequence and of the model's files, so neither another model nor another sequence can be
served a stale matrix.

Weights are read from safetensors only, which hold numbers and cannot run code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from common.errors import UserError
from common.files.atomic import atomic_path
from protein_cvae.residues import ALPHABET, UNKNOWN_LETTER

if TYPE_CHECKING:
    from transformers import EsmModel, EsmTokenizer

_CONFIG, _VOCABULARY = "config.json", "vocab.txt"
_WEIGHTS, _WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
# Parts that the last hidden state does not depend on; a checkpoint may lack them.
_UNUSED = ("contact_head.", "pooler.", "embeddings.position_ids")


class SequenceEmbedder(Protocol):
    """Anything that turns sequences into one vector per residue."""

    @property
    def width(self) -> int:
        """D, numbers per residue."""
        ...

    @property
    def identity(self) -> str:
        """Which embedder this is, weights included; kept in checkpoints."""
        ...

    def embed(self, sequences: Sequence[str]) -> list[np.ndarray]:
        """One (L, D) float32 array for each sequence of L letters."""
        ...


class EsmEmbedder:
    """ESM-2 of any size, through ``transformers`` (the extra ``esm``).

    Args:
        model: folder with config.json, vocab.txt and model.safetensors (or its shards and their
            index), or a name on the Hugging Face hub such as "facebook/esm2_t33_650M_UR50D".
        cache_dir: folder of the cache, made if absent; None computes every time.
        device: to compute on, e.g. "cuda".
        tokens_per_batch: most letters in one pass, padding included; a longer sequence goes alone.
        offline: take a name on the hub from the local hub cache only.

    Raises:
        ValueError: if ``tokens_per_batch`` is not positive.
    """

    def __init__(
        self,
        model: str,
        cache_dir: str | None = "runs/cache",
        device: str = "cpu",
        tokens_per_batch: int = 4096,
        offline: bool = False,
    ) -> None:
        if tokens_per_batch < 1:
            raise UserError(f"tokens_per_batch must be at least 1, got {tokens_per_batch}")
        self.model, self.device = str(model), device
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.tokens_per_batch, self.offline = tokens_per_batch, offline

    @cached_property
    def folder(self) -> Path:
        """The folder of the model's files, all checked to be there.

        Raises:
            ValueError: if a file is missing, naming it, or the hub cannot be reached.
        """
        folder = Path(self.model)
        if not folder.is_dir():
            folder = self._from_hub()
        missing = [name for name in (_CONFIG, _VOCABULARY) if not (folder / name).is_file()]
        if not (folder / _WEIGHTS).is_file() and not (folder / _WEIGHTS_INDEX).is_file():
            missing.append(f"{_WEIGHTS} (or {_WEIGHTS_INDEX} and its shards)")
        else:
            missing += [path.name for path in _weight_files(folder) if not path.is_file()]
        if missing:
            raise UserError(
                f"ESM-2 folder {folder} lacks {', '.join(missing)}; download the whole model, with "
                "weights as safetensors (others are not read: they can run code)"
            )
        return folder

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the model's files, hexadecimal."""
        digest = hashlib.sha256()
        for path in (self.folder / _CONFIG, self.folder / _VOCABULARY, *_weight_files(self.folder)):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def width(self) -> int:
        """D, the hidden size; known without loading the weights.

        Raises:
            ValueError: if config.json is not that of an ESM model.
        """
        path = self.folder / _CONFIG
        try:
            config = json.loads(path.read_text())
            if config["model_type"] != "esm":
                raise UserError(f"model_type is {config['model_type']!r}")
            return int(config["hidden_size"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not the configuration of an ESM-2 model: {error}") from None

    def embed(self, sequences: Sequence[str]) -> list[np.ndarray]:
        """One (L, D) float32 array for each sequence, from the cache where it has them.

        Args:
            sequences: of the 20 letters and X, not empty.

        Raises:
            ValueError: on an empty sequence or another letter, a damaged cache file, weights that
                are incomplete, or without ``transformers``.
        """
        for sequence in sequences:
            strange = sorted(set(sequence) - set(ALPHABET) - {UNKNOWN_LETTER})
            if not sequence or strange:
                raise UserError(
                    f"sequences must be made of {ALPHABET} and {UNKNOWN_LETTER}, got "
                    f"{''.join(strange)!r} in {sequence!r}"
                )
        known: dict[str, np.ndarray] = {}
        for sequence in dict.fromkeys(sequences):
            cached = self._read(sequence)
            if cached is not None:
                known[sequence] = cached
        todo = [sequence for sequence in dict.fromkeys(sequences) if sequence not in known]
        for batch in self._batches(todo):
            for sequence, rows in zip(batch, self._compute(batch), strict=True):
                self._write(sequence, rows)
                known[sequence] = rows
        return [known[sequence] for sequence in sequences]

    def __getstate__(self) -> dict[str, Any]:
        # Loader processes need the vectors, not the weights.
        return {k: v for k, v in self.__dict__.items() if k != "_loaded"}

    def _from_hub(self) -> Path:
        if self.model.startswith((".", "/", "~")) or self.model.count("/") != 1:
            raise UserError(f"ESM-2 folder {self.model} does not exist")
        _require_transformers()
        from huggingface_hub import snapshot_download

        patterns = [_CONFIG, _VOCABULARY, "model*.safetensors", _WEIGHTS_INDEX]
        try:
            return Path(
                snapshot_download(
                    self.model, allow_patterns=patterns, local_files_only=self.offline
                )
            )
        except Exception as error:  # the hub's client raises many kinds, for one reason
            raise UserError(
                f"ESM-2 {self.model!r} is neither a folder nor to be had from the hub "
                f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); give a folder "
                "with the model's files"
            ) from error

    @cached_property
    def _loaded(self) -> tuple[EsmModel, EsmTokenizer]:
        _require_transformers()
        from transformers import EsmModel, EsmTokenizer

        loaded: Any = EsmModel.from_pretrained(
            str(self.folder),
            local_files_only=True,
            use_safetensors=True,
            add_pooling_layer=False,
            output_loading_info=True,
        )
        model, info = loaded
        # What a checkpoint lacks is filled with random numbers, in silence.
        missing = sorted(k for k in info["missing_keys"] if not k.startswith(_UNUSED))
        if missing:
            raise UserError(
                f"ESM-2 weights in {self.folder} lack {', '.join(missing[:5])} and "
                f"{max(0, len(missing) - 5)} more; download the model again"
            )
        tokenizer = EsmTokenizer(str(self.folder / _VOCABULARY))
        return model.float().eval().to(self.device), tokenizer

    def _compute(self, sequences: Sequence[str]) -> list[np.ndarray]:
        model, tokenizer = self._loaded
        tokens = tokenizer(list(sequences), return_tensors="pt", padding=True)
        with torch.inference_mode():
            states = model(
                input_ids=tokens["input_ids"].to(self.device),
                attention_mask=tokens["attention_mask"].to(self.device),
            ).last_hidden_state
        rows = states.float().cpu().numpy()  # (B, 1 + L + 1, D)
        return [
            np.ascontiguousarray(r[1 : len(s) + 1]) for r, s in zip(rows, sequences, strict=True)
        ]

    def _batches(self, sequences: Sequence[str]) -> Iterator[list[str]]:
        batch: list[str] = []
        for sequence in sorted(sequences, key=len):
            if batch and (len(batch) + 1) * (len(sequence) + 2) > self.tokens_per_batch:
                yield batch
                batch = []
            batch.append(sequence)
        if batch:
            yield batch

    def _path(self, sequence: str) -> Path | None:
        if self.cache_dir is None:
            return None
        key = hashlib.sha256(f"{self.identity},{sequence}".encode()).hexdigest()[:32]
        return self.cache_dir / f"esm_{key}.npy"

    def _read(self, sequence: str) -> np.ndarray | None:
        path = self._path(sequence)
        if path is None or not path.exists():
            return None
        try:
            rows: np.ndarray = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} cannot be read ({error}); delete it") from error
        wanted = (len(sequence), self.width)
        if rows.shape != wanted or rows.dtype != np.float32 or not np.isfinite(rows).all():
            raise UserError(
                f"{path} holds {rows.dtype} of shape {rows.shape}, expected finite float32 of "
                f"shape {wanted}; delete it"
            )
        return rows

    def _write(self, sequence: str, rows: np.ndarray) -> None:
        path = self._path(sequence)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, rows, allow_pickle=False)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, in a fixed order."""
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    try:
        shards = json.loads((folder / _WEIGHTS_INDEX).read_text())["weight_map"].values()
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{folder / _WEIGHTS_INDEX} is damaged: {error!r}") from error
    return [folder / name for name in sorted(set(shards))]


def _require_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise UserError(
            "ESM-2 embeddings need the package transformers; install it with "
            "`pip install 'edgewise[esm]'`, or train without an embedder"
        ) from error
