"""What the daemon negotiates: SOP classes and transfer syntaxes, the source of the conformance statement.

Objects are kept as received: the transfer syntax that the sender prefers is the one that is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from pydicom import uid
from pydicom.uid import UID
from pynetdicom.presentation import PresentationContext

ACQUISITION_CLASSES: tuple[UID, ...] = (
    uid.CTImageStorage,
    uid.EnhancedCTImageStorage,
    uid.LegacyConvertedEnhancedCTImageStorage,
    uid.CTPerformedProcedureProtocolStorage,
    uid.MRImageStorage,
    uid.EnhancedMRImageStorage,
    uid.EnhancedMRColorImageStorage,
    uid.LegacyConvertedEnhancedMRImageStorage,
    uid.MRSpectroscopyStorage,
    uid.PositronEmissionTomographyImageStorage,
    uid.EnhancedPETImageStorage,
    uid.LegacyConvertedEnhancedPETImageStorage,
    uid.NuclearMedicineImageStorage,
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalXRayImageStorageForProcessing,
    uid.DigitalMammographyXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForProcessing,
    uid.BreastTomosynthesisImageStorage,
    uid.BreastProjectionXRayImageStorageForPresentation,
    uid.BreastProjectionXRayImageStorageForProcessing,
    uid.XRayAngiographicImageStorage,
    uid.EnhancedXAImageStorage,
    uid.XRayRadiofluoroscopicImageStorage,
    uid.EnhancedXRFImageStorage,
    uid.XRay3DAngiographicImageStorage,
    uid.XRay3DCraniofacialImageStorage,
    uid.XAPerformedProcedureProtocolStorage,
    uid.UltrasoundImageStorage,
    uid.UltrasoundMultiFrameImageStorage,
    uid.EnhancedUSVolumeStorage,
    uid.PhotoacousticImageStorage,
    uid.IntravascularOpticalCoherenceTomographyImageStorageForPresentation,
    uid.IntravascularOpticalCoherenceTomographyImageStorageForProcessing,
    uid.OphthalmicTomographyImageStorage,
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
    uid.RawDataStorage,
)
"""What a modality acquires."""

DERIVED_CLASSES: tuple[UID, ...] = (
    uid.SegmentationStorage,
    UID("1.2.840.10008.5.1.4.1.1.66.7"),  # Label Map Segmentation Storage: newer than pydicom's dictionary
    uid.SurfaceSegmentationStorage,
    uid.TractographyResultsStorage,
    uid.ParametricMapStorage,
    uid.RealWorldValueMappingStorage,
    uid.SpatialRegistrationStorage,
    uid.DeformableSpatialRegistrationStorage,
    uid.SpatialFiducialsStorage,
    uid.RTImageStorage,
    uid.RTDoseStorage,
    uid.RTStructureSetStorage,
    uid.RTPlanStorage,
    uid.RTIonPlanStorage,
    uid.BasicTextSRStorage,
    uid.EnhancedSRStorage,
    uid.ComprehensiveSRStorage,
    uid.Comprehensive3DSRStorage,
    uid.ExtensibleSRStorage,
    uid.ProcedureLogStorage,
    uid.MammographyCADSRStorage,
    uid.ChestCADSRStorage,
    uid.ColonCADSRStorage,
    uid.XRayRadiationDoseSRStorage,
    uid.EnhancedXRayRadiationDoseSRStorage,
    uid.RadiopharmaceuticalRadiationDoseSRStorage,
    uid.PatientRadiationDoseSRStorage,
    uid.AcquisitionContextSRStorage,
    uid.ContentAssessmentResultsStorage,
    uid.KeyObjectSelectionDocumentStorage,
    uid.GrayscaleSoftcopyPresentationStateStorage,
    uid.ColorSoftcopyPresentationStateStorage,
    uid.PseudoColorSoftcopyPresentationStateStorage,
    uid.BlendingSoftcopyPresentationStateStorage,
    uid.AdvancedBlendingPresentationStateStorage,
    uid.XAXRFGrayscaleSoftcopyPresentationStateStorage,
    uid.EncapsulatedPDFStorage,
    uid.EncapsulatedSTLStorage,
    uid.EncapsulatedOBJStorage,
    uid.EncapsulatedMTLStorage,
)
"""What a workstation or an algorithm makes of acquisitions: truth, plans, reports and our own results."""

ACCOMPANYING_CLASSES: tuple[UID, ...] = (
    uid.TwelveLeadECGWaveformStorage,
    uid.GeneralECGWaveformStorage,
    uid.AmbulatoryECGWaveformStorage,
    uid.HemodynamicWaveformStorage,
    uid.CardiacElectrophysiologyWaveformStorage,
    uid.ArterialPulseWaveformStorage,
    uid.RespiratoryWaveformStorage,
    uid.MultichannelRespiratoryWaveformStorage,
    uid.BasicVoiceAudioWaveformStorage,
    uid.EncapsulatedCDAStorage,
    uid.GrayscalePlanarMPRVolumetricPresentationStateStorage,
    uid.CompositingPlanarMPRVolumetricPresentationStateStorage,
    uid.VolumeRenderingVolumetricPresentationStateStorage,
    uid.PlannedImagingAgentAdministrationSRStorage,
    uid.PerformedImagingAgentAdministrationSRStorage,
    uid.SimplifiedAdultEchoSRStorage,
)
"""What a modality sends beside its images: refused, it would make the whole transfer fail at the sender."""

PRIVATE_CLASSES: dict[UID, str] = {
    UID("1.3.12.2.1107.5.9.1"): "Siemens CSA Non-Image Storage (private)",
    UID("1.3.12.2.1107.5.99.3.10"): "Siemens CT MR Volume Storage (private)",
    UID("1.3.12.2.1107.5.99.3.11"): "Siemens AX Frame Sets Storage (private)",
    UID("1.2.840.113619.4.26"): "GE 3D Model Storage (private)",
    UID("1.2.840.113619.4.27"): "GE eNTEGRA Protocol or NM Genie Storage (private)",
    UID("1.2.840.113619.4.30"): "GE PET Raw Data Storage (private)",
    UID("1.3.46.670589.2.3.1.1"): "Philips Specialised XA Storage (private)",
    UID("1.3.46.670589.5.0.1.1"): "Philips Volume Storage (private)",
    UID("1.3.46.670589.5.0.2.1"): "Philips 3D Object Storage (private)",
    UID("1.3.46.670589.5.0.3.1"): "Philips Surface Storage (private)",
    UID("1.3.46.670589.5.0.8.1"): "Philips MR Cardio Storage (private)",
    UID("1.3.46.670589.5.0.9"): "Philips CT Synthetic Image Storage (private)",
    UID("1.3.46.670589.5.0.10"): "Philips MR Synthetic Image Storage (private)",
    UID("1.3.46.670589.5.0.11.1"): "Philips MR Cardio Analysis Storage (private)",
    UID("1.3.46.670589.5.0.13"): "Philips Perfusion Storage (private)",
    UID("1.3.46.670589.5.0.14"): "Philips Perfusion Image Storage (private)",
    UID("1.3.46.670589.11.0.0.12.1"): "Philips MR Spectrum Storage (private)",
    UID("1.3.46.670589.11.0.0.12.2"): "Philips MR Series Data Storage (private)",
    UID("1.3.46.670589.11.0.0.12.3"): "Philips MR Color Image Storage (private)",
    UID("1.3.46.670589.11.0.0.12.4"): "Philips MR Examcard Storage (private)",
    UID("1.2.392.200036.9116.7.8.1.1.1"): "Toshiba US Image Storage (private)",
}
"""The same from vendors; names as dcm4che's table of private UIDs has them."""

STORAGE_CLASSES: tuple[UID, ...] = (
    ACQUISITION_CLASSES + DERIVED_CLASSES + ACCOMPANYING_CLASSES + tuple(PRIVATE_CLASSES)
)
"""Fewer than one association can propose, so that C-GET can ask for all of them at once."""

UNCOMPRESSED_SYNTAXES: tuple[UID, ...] = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)

COMPRESSED_SYNTAXES: tuple[UID, ...] = (
    uid.JPEGLosslessSV1,
    uid.JPEGLossless,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
    uid.RLELossless,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
)

TRANSFER_SYNTAXES: tuple[UID, ...] = UNCOMPRESSED_SYNTAXES + COMPRESSED_SYNTAXES

VERIFICATION = UID("1.2.840.10008.1.1")
COMMITMENT = UID("1.2.840.10008.1.20.1")
COMMITMENT_INSTANCE = UID("1.2.840.10008.1.20.1.1")
STUDY_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
STUDY_MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
STUDY_GET = UID("1.2.840.10008.5.1.4.1.2.2.3")

MAXIMUM_PROPOSED = 128
"""Presentation contexts that one association can propose (odd identifiers 1 to 255, PS3.8 9.3.2.2)."""


def acceptable() -> dict[str, tuple[UID, ...]]:
    """Return the transfer syntaxes that the listener accepts, by SOP class."""
    plain = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)
    return {VERIFICATION: plain, COMMITMENT: plain} | dict.fromkeys(STORAGE_CLASSES, TRANSFER_SYNTAXES)


def as_requested(
    requested: Iterable[PresentationContext], supported: dict[str, tuple[UID, ...]]
) -> list[PresentationContext]:
    """Return what the acceptor supports of ``requested``, in the order that the requestor prefers.

    An acceptor may take any of the proposed transfer syntaxes (PS3.8 9.3.3.2). Taking the requestor's first
    means that the object arrives in the syntax that it is stored in.
    """
    preferred: dict[str, list[UID]] = {}
    for proposed in requested:
        name = str(proposed.abstract_syntax)
        chosen = preferred.setdefault(name, [])
        known = supported.get(name, ())
        chosen += [s for s in proposed.transfer_syntax if s in known and s not in chosen]
    return [_context(name, tuple(syntaxes)) for name, syntaxes in preferred.items() if syntaxes]


def name_of(sop_class_uid: str) -> str:
    """Return the name of a SOP class, or its UID when nobody has named it."""
    known = UID(sop_class_uid)
    return PRIVATE_CLASSES.get(known, known.name)


def not_taken(
    requested: Iterable[PresentationContext],
    chosen: Iterable[PresentationContext],
    supported: dict[str, tuple[UID, ...]],
) -> list[str]:
    """Return in words what was proposed in vain: SOP classes, or all syntaxes of one that we know."""
    taken = {str(context.abstract_syntax) for context in chosen}
    refused: dict[str, list[str]] = {}
    for proposed in requested:
        name = str(proposed.abstract_syntax)
        if name not in taken:
            refused.setdefault(name, []).extend(syntax.name for syntax in proposed.transfer_syntax)
    return [
        name_of(name) + (f" in {', '.join(dict.fromkeys(syntaxes))}" if name in supported else "")
        for name, syntaxes in refused.items()
    ]


@lru_cache(maxsize=1024)
def _context(abstract_syntax: str, syntaxes: tuple[UID, ...]) -> PresentationContext:
    """Return a context that associations share: they only read it, and pynetdicom checks UIDs slowly."""
    context = PresentationContext()
    context.abstract_syntax = UID(abstract_syntax)
    context.transfer_syntax = list(syntaxes)
    if abstract_syntax == COMMITMENT:
        # The PACS reports as SCP of the service on an association of its own: we are its SCU there
        context.scu_role, context.scp_role = True, True
    return context
