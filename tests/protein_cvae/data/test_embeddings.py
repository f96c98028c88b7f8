"""ESM-2 embeddings: the right rows, cached under the right name, from safetensors only."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EsmConfig, EsmForMaskedLM, EsmModel, EsmTokenizer

from protein_cvae.data.embeddings import EsmEmbedder, SequenceEmbedder

# The vocabulary of ESM-2, in its order.
TOKENS = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
SEQUENCES = ["MKVLAAGIC", "GG", "MKXLHHHHHHWYQ"]


def write_model(folder: Path, seed: int, shards: bool = False, language: bool = False) -> Path:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(TOKENS))
    torch.manual_seed(seed)
    config = EsmConfig(
        vocab_size=len(TOKENS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
        mask_token_id=TOKENS.index("<mask>"),
        pad_token_id=1,
    )
    model = EsmForMaskedLM(config) if language else EsmModel(config)
    model.save_pretrained(folder, max_shard_size="10KB" if shards else "5GB")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("esm") / "small", 0)


def direct(folder: Path, sequence: str) -> np.ndarray:
    """One sequence alone through the model, start and end cut off."""
    model = EsmModel.from_pretrained(folder).eval()
    tokens = EsmTokenizer(str(folder / "vocab.txt"))(sequence, return_tensors="pt")
    ids = [TOKENS.index(letter) for letter in ["<cls>", *sequence, "<eos>"]]
    assert tokens["input_ids"][0].tolist() == ids
    with torch.no_grad():
        return model(**tokens).last_hidden_state[0, 1:-1].numpy()


@pytest.mark.parametrize("tokens_per_batch", [1, 4096])
def test_rows_equal_a_direct_run(folder: Path, tokens_per_batch: int) -> None:
    embedder: SequenceEmbedder = EsmEmbedder(str(folder), None, tokens_per_batch=tokens_per_batch)
    assert embedder.width == 16
    for rows, sequence in zip(embedder.embed(SEQUENCES), SEQUENCES, strict=True):
        assert rows.shape == (len(sequence), 16)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, direct(folder, sequence), rtol=0, atol=2e-6)


def test_shards_and_language_model_checkpoints_are_read(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "sharded", 3, shards=True, language=True)
    assert not (folder / "model.safetensors").exists()
    rows = EsmEmbedder(str(folder), None).embed(SEQUENCES[:1])[0]
    np.testing.assert_allclose(rows, direct(folder, SEQUENCES[0]), rtol=0, atol=2e-6)


def test_cache_is_hit_by_sequence_and_missed_by_another_model(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = EsmEmbedder(str(folder), str(cache)).embed(SEQUENCES)
    files = sorted(cache.iterdir())
    assert len(files) == len(SEQUENCES)

    again = EsmEmbedder(str(folder), str(cache))
    for ours, theirs in zip(again.embed(SEQUENCES[::-1]), first[::-1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "_loaded" not in again.__dict__  # the weights were not needed

    other = EsmEmbedder(str(write_model(tmp_path / "other", 1)), str(cache))
    assert other.identity != again.identity
    assert not np.allclose(other.embed(SEQUENCES[:1])[0], first[0])
    assert len(list(cache.iterdir())) == len(SEQUENCES) + 1


def test_identity_is_that_of_the_content(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert EsmEmbedder(str(copy)).identity == EsmEmbedder(str(folder)).identity


def test_a_damaged_cache_file_is_refused(folder: Path, tmp_path: Path) -> None:
    embedder = EsmEmbedder(str(folder), str(tmp_path))
    embedder.embed(["MKV"])
    path = next(tmp_path.glob("*.npy"))
    np.save(path, np.zeros((2, 16), dtype=np.float32))
    with pytest.raises(ValueError, match=r"shape \(3, 16\); delete it"):
        embedder.embed(["MKV"])
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="delete it"):
        embedder.embed(["MKV"])


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_missing_files_are_named(folder: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {name}"):
        EsmEmbedder(str(copy)).embed(["MKV"])


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    torch.save(EsmModel.from_pretrained(folder).state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="can run code"):
        EsmEmbedder(str(copy), None).embed(["MKV"])


def test_missing_shard_and_missing_weights_are_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "sharded", 3, shards=True)
    index_path = folder / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    shard = index["weight_map"]["encoder.layer.1.output.dense.weight"]
    (folder / shard).rename(tmp_path / shard)
    with pytest.raises(ValueError, match=f"lacks {shard}"):
        EsmEmbedder(str(folder)).embed(["MKV"])
    # A checkpoint that does not name the weights at all would leave them random.
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v != shard}
    index_path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"weights in .* lack"):
        EsmEmbedder(str(folder), None).embed(["MKV"])


def test_other_models_folders_and_letters_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "config.json").write_text('{"model_type": "bert", "hidden_size": 8}')
    with pytest.raises(ValueError, match=r"not the configuration of an ESM-2 model.*bert"):
        _ = EsmEmbedder(str(copy)).width
    with pytest.raises(ValueError, match="does not exist"):
        EsmEmbedder(str(tmp_path / "nowhere")).embed(["MKV"])
    with pytest.raises(ValueError, match="got 'b' in 'MKb'"):
        EsmEmbedder(str(folder), None).embed(["MKb"])
    with pytest.raises(ValueError, match="neither a folder nor to be had from the hub"):
        EsmEmbedder("nobody/nothing", None, offline=True).embed(["MKV"])


def test_without_transformers_the_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"edgewise\[esm\]"):
        EsmEmbedder(str(folder), None).embed(["MKV"])
