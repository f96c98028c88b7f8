"""Finding ensembles among files, folders and patterns; their names; downloading by identifier."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from protein_cvae.io import (
    download_structure,
    ensemble_names,
    find_ensembles,
    load_ensemble,
    read_structure,
)

ATOM = "ATOM  {:5d}  {:<3s} ALA A   1    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00           {}  "
PDB = "\n".join(
    ATOM.format(i + 1, name, *xyz, name[0])
    for i, (name, xyz) in enumerate(
        [("N", (0.0, 0.0, 0.0)), ("CA", (1.458, 0.0, 0.0)), ("C", (2.008, 1.42, 0.0))]
    )
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Structures in two folders, a trajectory folder, and files that are neither."""
    for name in ("nmr/b.pdb", "nmr/sub/c.ent", "nmr/README.md", "nmr/.hidden.pdb", "a.pdb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(PDB)
    (tmp_path / "nmr/a.pdb.gz").write_bytes(gzip.compress(PDB.encode()))
    (tmp_path / "md/b").mkdir(parents=True)
    for name in ("topology.pdb", "other.pdb", "run.xtc"):
        (tmp_path / "md/b" / name).write_text(PDB)
    (tmp_path / "md/none").mkdir()
    return tmp_path


def names(paths: list[Path], tree: Path) -> list[str]:
    return [path.relative_to(tree).as_posix() for path in paths]


def test_folders_are_searched_and_a_trajectory_folder_is_one(tree):
    found = names(find_ensembles([tree]), tree)
    assert found == ["a.pdb", "md/b", "nmr/a.pdb.gz", "nmr/b.pdb", "nmr/sub/c.ent"]
    assert names(find_ensembles([tree / "md/b"]), tree) == ["md/b"]


def test_files_folders_and_patterns_each_once_in_order(tree):
    entries = [tree / "nmr/b.pdb", str(tree / "nmr/*"), tree / "nmr", str(tree / "md/*")]
    found = names(find_ensembles(entries), tree)
    assert found == ["nmr/b.pdb", "nmr/a.pdb.gz", "nmr/sub/c.ent", "md/b"]
    deep = names(find_ensembles([str(tree / "**/*.ent"), str(tree / "**/*.gz")]), tree)
    assert deep == ["nmr/sub/c.ent", "nmr/a.pdb.gz"]


def test_what_is_not_there_is_named(tree):
    for entry, message in [
        (tree / "none.pdb", r"none\.pdb: no such file or folder"),
        (str(tree / "*.cif"), r"\*\.cif: the pattern matches no"),
        (tree / "md/none", "none: no structure file"),
        (str(tree / "nmr/*.md"), r"\*\.md: no structure file"),
    ]:
        with pytest.raises(FileNotFoundError, match=message):
            find_ensembles([entry])
    with pytest.raises(ValueError, match="at least one"):
        find_ensembles([])
    with pytest.raises(FileNotFoundError, match="x: no such file or folder"):
        find_ensembles("x")


def test_a_file_given_by_name_is_found_and_refused_when_loaded(tree):
    (found,) = find_ensembles([tree / "nmr/README.md"])
    with pytest.raises(ValueError, match=r"README\.md: suffix '\.md' is not known"):
        load_ensemble(found)


def test_names_are_unique_and_as_short_as_can_be(tree):
    found = find_ensembles([tree])
    assert ensemble_names(found) == [f"{tree.name}/a", "md/b", "nmr/a", "nmr/b", "c"]
    (tree / "nmr/b.cif").write_text("")
    both = [tree / "nmr/b.pdb", tree / "nmr/b.cif"]
    assert ensemble_names(both) == [str(path) for path in both]
    with pytest.raises(ValueError, match=r"b\.pdb stands twice"):
        ensemble_names([both[0], both[0]])


def test_load_ensemble_takes_its_limits_to_the_reader(tree):
    assert load_ensemble(tree / "a.pdb", name="other").name == "other"
    with pytest.raises(ValueError, match="min_models is 2"):
        load_ensemble(tree / "a.pdb", min_models=2)
    with pytest.raises(ValueError, match="max_residues is 0"):
        load_ensemble(tree / "a.pdb", max_residues=0)
    with pytest.raises(FileNotFoundError, match="none: no topology"):
        load_ensemble(tree / "md/none")


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """A mirror of the archive's layout on disk, with one entry, in PDB format only."""
    folder = tmp_path / "mirror/pub/pdb/data/structures/divided/pdb/ab"
    folder.mkdir(parents=True)
    (folder / "pdb1abc.ent.gz").write_bytes(gzip.compress(PDB.encode()))
    return (tmp_path / "mirror").as_uri()


def test_download_stores_one_complete_file(tmp_path, archive, capsys):
    path = download_structure("1ABC", tmp_path / "new/here", file_format="pdb", server=archive)
    assert path == tmp_path / "new/here/1abc.pdb.gz"
    assert [p.name for p in path.parent.iterdir()] == ["1abc.pdb.gz"]
    assert read_structure(path).sequence == "A"
    assert capsys.readouterr() == ("", "")


def test_what_is_there_is_not_fetched_again_unless_asked(tmp_path, archive):
    kept = tmp_path / "1abc.pdb.gz"
    kept.write_bytes(b"mine")
    assert download_structure("1abc", tmp_path, file_format="pdb", server=archive) == kept
    assert kept.read_bytes() == b"mine"
    download_structure("1abc", tmp_path, file_format="pdb", server=archive, overwrite=True)
    assert read_structure(kept).length == 1


def test_download_that_fails_names_the_entry_and_leaves_nothing(tmp_path, archive):
    folder = tmp_path / "out"
    for pdb_id, kind in [("1abc", "mmcif"), ("9zzz", "pdb")]:
        with pytest.raises(ConnectionError, match=rf"{pdb_id}: download as .* failed .*{pdb_id}"):
            download_structure(pdb_id, folder, file_format=kind, server=archive)
    damaged = tmp_path / "mirror/pub/pdb/data/structures/divided/pdb/ab/pdb1abc.ent.gz"
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(ConnectionError, match="1abc: download as pdb failed"):
        download_structure("1abc", folder, file_format="pdb", server=archive)
    assert list(folder.iterdir()) == []


def test_identifier_and_format_are_checked(tmp_path):
    for wrong in ("abcd", "1abcd", "", "../1", "1ab/"):
        with pytest.raises(ValueError, match="pdb_id: expected four characters"):
            download_structure(wrong, tmp_path)
    with pytest.raises(ValueError, match="file_format: expected one of"):
        download_structure("1abc", tmp_path, file_format="xml")
