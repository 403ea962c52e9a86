"""What a model is, in one file: ``model.toml`` beside its weights, read whole and refused when it is not.

Nothing here has a default that changes the answer of a model which does not mention it: a behaviour that is
added later gets a key of its own, so that the digest of a locked model keeps its meaning.
"""

from __future__ import annotations

import tomllib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from voxtrial.daemon.dicom.select import Selector
from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.harmonize.envelope import Envelope
from voxtrial.daemon.harmonize.recipe import Recipe

MANIFEST_NAME = "model.toml"

Triple = tuple[int, int, int]
Positive = Annotated[float, Field(gt=0)]
Byte = Annotated[int, Field(ge=0, le=255)]


class Code(NamedTuple):
    """A coded concept (PS3.3 section 8): value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Identity(_Part):
    """Which model this is, and what it may be used for."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Name that routes use.")
    version: str = Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,15}$", description="Version of the weights.")
    description: str = Field(max_length=64, description="A line for a worklist; at most 64 characters (LO).")
    intended_use: str = Field(min_length=1, description="For whom and for what; printed in every report.")
    licence: str = Field(min_length=1, description="SPDX identifier or the licence line of the weights.")
    manufacturer: str = Field("", description="Who answers for the weights.")
    family: Code = Field(
        Code("123110", "DCM", "Artificial Intelligence"), description="Algorithm family (CID 7162)."
    )


class Input(_Part):
    """One image that the model needs, and how it is made comparable."""

    role: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the input, e.g. ct, pet, arterial.")
    selector: Selector = Field(description="Which series of the study it is.")
    recipe: tuple[dict[str, Any], ...] = Field((), description="Steps of harmonize.recipe.Recipe.")
    envelope: tuple[dict[str, Any], ...] = Field(
        (), description="Rules of harmonize.envelope.Envelope: what the model was validated for."
    )

    @model_validator(mode="after")
    def _steps_and_rules_are_known(self) -> Self:
        Recipe.from_steps(self.recipe)
        Envelope.from_rules(self.envelope)
        return self

    @property
    def harmonization(self) -> Recipe:
        """The recipe, checked."""
        return Recipe.from_steps(self.recipe)

    @property
    def validated_for(self) -> Envelope:
        """The envelope, checked."""
        return Envelope.from_rules(self.envelope)


class Engine(_Part):
    """What computes the output."""

    architecture: Literal["unet3d", "meshnet", "otsu", "threshold"] = Field(
        description="unet3d, meshnet, otsu or threshold."
    )
    activation: Literal["sigmoid", "softmax", "none"] = Field(
        description="sigmoid: every channel for itself; softmax: the channel is the label, 0 background."
    )
    precision: Literal["float32"] = Field("float32", description="Arithmetic of the engine.")
    weights: str = Field("", description="Safetensors file beside this one; empty: the model has no weights.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Arguments of the architecture.")

    @field_validator("weights")
    @classmethod
    def _stays_in_the_folder(cls, name: str) -> str:
        if name and PurePosixPath(name).name != name:
            raise ValueError("weights must be a file name beside model.toml, without folders")
        return name


class Tiling(_Part):
    """How a volume is cut for the network; part of the validated model, never tuned on the fly.

    ``whole``: one pass. ``exact``: windows with a halo of at least the receptive field, every voxel once,
    equal to one pass. ``blended``: overlapping windows under Gaussian weights, for networks whose output
    depends on the window (instance norm). ``layers``: each layer over the whole volume, slab by slab; equal
    to one pass.
    """

    mode: Literal["whole", "exact", "blended", "layers"] = Field(description="One of the four above.")
    tile: Triple = Field((0, 0, 0), description="Window that the network sees, halo included (z, y, x).")
    halo: Triple = Field((0, 0, 0), description="Voxels on each side that are computed and thrown away.")
    overlap: float = Field(0.5, ge=0, lt=1, description="Overlap of neighbouring windows when blended.")
    slab: int = Field(32, ge=1, description="Planes that are computed at a time when mode is layers.")

    @model_validator(mode="after")
    def _tile_exceeds_halo(self) -> Self:
        if self.mode in ("exact", "blended") and min(self.tile) < 1:
            raise ValueError("tile must be given for exact and blended tiling")
        if self.mode == "exact" and any(t <= 2 * h for t, h in zip(self.tile, self.halo, strict=True)):
            raise ValueError(f"tile {self.tile} must be wider than twice the halo {self.halo}")
        return self


class OutputLabel(_Part):
    """One kind of finding, coded the way that SEG and SR write it."""

    index: int = Field(ge=1, description="Label value, from 1.")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Short stable name: tables group by it.")
    label: str = Field(max_length=64, description="Segment label as people read it.")
    category: Code = Field(description="Segmented property category (CID 7150).")
    type: Code = Field(description="Segmented property type (CID 7151 and below).")
    site: Code | None = Field(None, description="Anatomic region of the finding.")
    rgb: tuple[Byte, Byte, Byte] = Field((255, 0, 0), description="Recommended display colour, sRGB.")


class Findings(_Part):
    """How the output becomes a list of findings."""

    rule: Literal["component", "label"] = Field(
        description="component: every connected lesion is one finding; label: one region for each label."
    )
    threshold: float = Field(
        0.5, ge=0, le=1, description="A voxel belongs to the finding above this probability."
    )
    connectivity: Literal[6, 18, 26] = Field(26, description="Neighbours that join voxels to one component.")
    minimum_volume_mm3: float = Field(0.0, ge=0, description="Smaller components are not findings.")
    classifier: Literal["", "shape_and_rim"] = Field(
        "", description="Measured-feature classifier whose coefficients stand in the weights file."
    )
    minimum_lesion_probability: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Components that the classifier holds for less probable a lesion are not findings; "
        "0: it is not asked.",
    )


class Score(_Part):
    """A number that the model gives to each finding."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Key in Finding.scores.")
    concept: Code = Field(description="What the number is, as the SR codes it.")
    unit: str = Field("1", description="UCUM unit.")


class OperatingPoint(_Part):
    """A cut on a score, frozen before the test data were seen."""

    name: str = Field(description="Name of the point, e.g. balanced, screening.")
    score: str = Field(description="Score that is cut.")
    threshold: float = Field(description="Positive at or above this value.")
    rule: str = Field(description="How and on what the threshold was chosen.")


class Explain(_Part):
    """What a map of attention is asked about."""

    method: Literal["gradcam"] = Field("gradcam", description="How the map is made.")
    layer: str = Field(description="Layer of the network, by its name in the architecture.")
    output: int = Field(1, ge=1, description="Label whose evidence is shown.")


class Training(_Part):
    """What the weights were made from: the base of warnings about other input."""

    data: str = Field(min_length=1, description="Data, in words.")
    spacing_mm: tuple[Positive, Positive, Positive] | None = Field(
        None, description="Voxel spacing (z, y, x) that the network was trained on."
    )
    receptive_field: Triple | None = Field(
        None, description="Voxels (z, y, x) of the input that one output voxel can see."
    )

    @property
    def receptive_field_mm(self) -> tuple[float, float, float] | None:
        """Extent in mm (z, y, x) that one output voxel can see; None when it is the whole image."""
        if self.receptive_field is None or self.spacing_mm is None:
            return None
        z, y, x = (n * s for n, s in zip(self.receptive_field, self.spacing_mm, strict=True))
        return z, y, x


class Manifest(_Part):
    """The whole of ``model.toml``."""

    identity: Identity
    inputs: tuple[Input, ...] = Field(min_length=1)
    engine: Engine
    tiling: Tiling
    outputs: tuple[OutputLabel, ...] = Field(min_length=1)
    findings: Findings
    scores: tuple[Score, ...] = ()
    operating_points: tuple[OperatingPoint, ...] = ()
    explain: Explain | None = None
    training: Training | None = None

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        roles = [one.role for one in self.inputs]
        indices = [one.index for one in self.outputs]
        if len(set(roles)) < len(roles):
            raise ValueError(f"input roles must differ, got {roles}")
        if indices != list(range(1, len(indices) + 1)):
            raise ValueError(f"output indices must run from 1 without gaps, got {indices}")
        known = {one.name for one in self.scores}
        unknown = [point.score for point in self.operating_points if point.score not in known]
        if unknown:
            raise ValueError(f"operating points name the unknown score {unknown[0]}")
        if bool(self.findings.classifier) != bool(self.scores):
            raise ValueError("scores and findings.classifier must be given together")
        if self.findings.minimum_lesion_probability and not self.findings.classifier:
            raise ValueError("findings.minimum_lesion_probability needs a findings.classifier")
        return self

    @property
    def title(self) -> str:
        """Name and version, e.g. ``nodule-phantom 1.1.0``."""
        return f"{self.identity.name} {self.identity.version}"

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read and check ``model.toml`` in ``folder``.

        Raises
        ------
        Misconfigured
            No such file, not TOML, or a key that is missing, unknown or out of range; the message names it.
        """
        return parse(read_toml(folder), where=str(folder / MANIFEST_NAME))


def read_toml(folder: Path) -> dict[str, Any]:
    """Return ``model.toml`` of ``folder`` as it is written, unchecked."""
    path = folder / MANIFEST_NAME
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise Misconfigured(f"{folder} is not a model: it holds no {MANIFEST_NAME}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} is not valid TOML: {error}") from error


def parse(content: dict[str, Any], *, where: str) -> Manifest:
    """Check ``content`` as a manifest; ``where`` names it in the message of the error."""
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"]) or "the manifest"
        raise Misconfigured(f"{where}: {key}: {problem['msg']}") from error
