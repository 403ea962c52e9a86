"""Models on disk, found by name or digest, and never another model than the one that was locked.

A store is a folder with one folder for each digest. The models that come with the package are in every store.
"""

from __future__ import annotations

import difflib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from voxtrial.daemon.errors import Fatal, Misconfigured
from voxtrial.daemon.models.digest import model_digest, recipe_digest
from voxtrial.daemon.models.manifest import MANIFEST_NAME, Manifest

BUILTIN = Path(__file__).parent / "builtin"
SHORTEST_DIGEST = 8
"""Digits of a digest that are accepted as a name."""


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A locked model: what it says of itself, and the bytes that it is."""

    digest: str
    folder: Path
    manifest: Manifest
    builtin: bool = False

    @cached_property
    def recipe_digest(self) -> str:
        """Digest of the harmonization that the model asks for."""
        return recipe_digest(self.manifest.inputs)

    @property
    def weights(self) -> Path | None:
        """File of the weights; None for a model without."""
        name = self.manifest.engine.weights
        return self.folder / name if name else None


def open_folder(folder: Path) -> StoredModel:
    """Return the model in any ``folder``, digest computed from its bytes."""
    return StoredModel(
        digest=model_digest(folder),
        folder=folder,
        manifest=Manifest.load(folder),
        builtin=folder.parent == BUILTIN,
    )


class ModelStore:
    """The models of one site.

    Parameters
    ----------
    root
        Folder of the added models; made when the first is added.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def list(self) -> list[StoredModel]:
        """Return every model, built-in ones first, by name and version; bytes are not verified."""
        return [*self._builtin(), *sorted(self._added(), key=lambda m: (m.manifest.title, m.digest))]

    def add(self, folder: Path) -> StoredModel:
        """Copy the model in ``folder`` into the store and return it; adding it again changes nothing.

        The copy appears under its digest at once or not at all.
        """
        model = open_folder(folder)
        for known in self.list():
            if known.digest == model.digest:
                return known
        self.root.mkdir(parents=True, exist_ok=True)
        target = self.root / model.digest
        incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self.root))
        try:
            wanted = (MANIFEST_NAME, model.manifest.engine.weights)
            documents = sorted(p.name for p in folder.iterdir() if p.suffix in (".md", ".txt"))
            for name in filter(None, (*wanted, *documents)):
                copy = incoming / name
                shutil.copyfile(folder / name, copy)
                copy.chmod(0o444)
            incoming.chmod(0o755)
            if model_digest(incoming) != model.digest:
                raise Fatal(f"{folder} changed while it was copied; add it again when it is at rest")
            incoming.rename(target)
        except OSError:
            if not target.is_dir():  # else another process has just added the same model
                raise
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return open_folder(target)

    def get(self, name_or_digest: str) -> StoredModel:
        """Return one model by name, ``name@version`` or digest (eight digits are enough), its bytes verified.

        Raises
        ------
        Misconfigured
            No such model, or several; the message holds the nearest names.
        """
        models = self.list()
        name, _, version = name_or_digest.partition("@")
        found = [
            m
            for m in models
            if (m.manifest.identity.name == name and version in ("", m.manifest.identity.version))
            or (len(name_or_digest) >= SHORTEST_DIGEST and m.digest.startswith(name_or_digest))
        ]
        if not found:
            names = sorted({m.manifest.identity.name for m in models})
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
            raise Misconfigured(f"No model is called {name_or_digest}; nearest: {', '.join(near)}")
        if len(found) > 1:
            choices = ", ".join(
                f"{m.manifest.identity.name}@{m.manifest.identity.version} ({m.digest[:12]})" for m in found
            )
            raise Misconfigured(f"Several models are called {name_or_digest}; name one of {choices}")
        return self.verify(found[0].digest)

    def verify(self, digest: str) -> StoredModel:
        """Return the model of ``digest`` after its digest was computed again from the stored bytes.

        Raises
        ------
        Misconfigured
            The store does not hold it.
        Fatal
            The stored bytes are not those that were locked.
        """
        for model in self.list():
            if model.digest == digest:
                if (found := model_digest(model.folder)) != digest:
                    raise Fatal(
                        f"Model {model.manifest.title} was changed on disk: its digest is {found[:12]}, "
                        f"locked was {digest[:12]}; remove {model.folder} and add the model again"
                    )
                return model
        raise Misconfigured(f"The store {self.root} holds no model with digest {digest}; add it first")

    def _builtin(self) -> Iterator[StoredModel]:
        for path in sorted(BUILTIN.glob(f"*/{MANIFEST_NAME}")):
            yield open_folder(path.parent)

    def _added(self) -> Iterator[StoredModel]:
        for path in self.root.glob(f"[0-9a-f]*/{MANIFEST_NAME}"):
            yield StoredModel(
                digest=path.parent.name, folder=path.parent, manifest=Manifest.load(path.parent)
            )
