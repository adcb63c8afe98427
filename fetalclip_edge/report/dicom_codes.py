"""The codes of a report, as DICOM PS3.16 lists them for ultrasound in obstetrics.

Context groups: fetal biometry (CID 12005), ratios (12004), equations of gestational age (12013),
statistics (226), uncertainty (225), derivation (3627).
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PRIVATE_SCHEME", "Coded"]

PRIVATE_SCHEME = "99FETALCLIPEDGE"
"""Designator of codes of our own: DICOM reserves those that begin with 99."""


class Coded(NamedTuple):
    """A concept: code, designator of its scheme, meaning."""

    value: str
    scheme: str
    meaning: str


# Sections and containers of TID 5000 and what it includes
REPORT = Coded("125000", "DCM", "OB-GYN Ultrasound Procedure Report")
IMAGE_LIBRARY = Coded("111028", "DCM", "Image Library")
SUMMARY = Coded("121111", "DCM", "Summary")
RATIOS = Coded("125001", "DCM", "Fetal Biometry Ratios")
BIOMETRY = Coded("125002", "DCM", "Fetal Biometry")
BIOMETRY_GROUP = Coded("125005", "DCM", "Biometry Group")

# Context: language (TID 1204), observer (TID 1002, 1004)
LANGUAGE = Coded("121049", "DCM", "Language of Content Item and Descendants")
ENGLISH = Coded("en", "RFC5646", "English")
OBSERVER_TYPE = Coded("121005", "DCM", "Observer Type")
DEVICE = Coded("121007", "DCM", "Device")
DEVICE_UID = Coded("121012", "DCM", "Device Observer UID")
DEVICE_NAME = Coded("121013", "DCM", "Device Observer Name")
DEVICE_MANUFACTURER = Coded("121014", "DCM", "Device Observer Manufacturer")
DEVICE_MODEL = Coded("121015", "DCM", "Device Observer Model Name")

# Algorithm (TID 4019)
ALGORITHM_NAME = Coded("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = Coded("111003", "DCM", "Algorithm Version")
ALGORITHM_PARAMETERS = Coded("111002", "DCM", "Algorithm Parameters")

# What is measured
HEAD_CIRCUMFERENCE = Coded("11984-2", "LN", "Head Circumference")
BIPARIETAL_DIAMETER = Coded("11820-8", "LN", "Biparietal Diameter")
OCCIPITOFRONTAL_DIAMETER = Coded("11851-3", "LN", "Occipital-Frontal Diameter")
CEPHALIC_INDEX = Coded("11823-2", "LN", "Cephalic Index")
GESTATIONAL_AGE = Coded("18185-9", "LN", "Gestational Age")

# How (TID 300, 310, 315, 320)
METHOD = Coded("370129005", "SCT", "Measurement Method")
OUTER_OUTER = Coded("outer-outer", PRIVATE_SCHEME, "Outer edge to outer edge of the skull")
OUTER_EDGE = Coded("outer-edge", PRIVATE_SCHEME, "Ellipse along the outer edge of the skull")
DERIVATION = Coded("121401", "DCM", "Derivation")
MEDIAN = Coded("373099004", "SCT", "Median")
UNCERTAINTY = Coded("371884006", "SCT", "+/-, range of measurement uncertainty")
LOWER = Coded("371918003", "SCT", "2 Sigma Lower Value of population")
UPPER = Coded("371920000", "SCT", "2 Sigma Upper Value of population")
EQUATION = Coded("121420", "DCM", "Equation")
EQUATION_CITATION = Coded("121421", "DCM", "Equation Citation")
HADLOCK = Coded("11932-1", "LN", "HC, Hadlock 1984")
SOURCE = Coded("121112", "DCM", "Source of Measurement")
ILLUSTRATION = Coded("121080", "DCM", "Best illustration of finding")
IMAGE_VIEW = Coded("111031", "DCM", "Image View")
COMMENT = Coded("121106", "DCM", "Comment")

# Units
MILLIMETRES = Coded("mm", "UCUM", "mm")
DAYS = Coded("d", "UCUM", "day")
PER_CENT = Coded("%", "UCUM", "Percent")

CITATIONS = {
    "who": "Kiserud T et al. The World Health Organization fetal growth charts. "
    "PLoS Med 2017;14(1):e1002220",
    "intergrowth": "Papageorghiou AT et al. International standards for fetal growth "
    "(INTERGROWTH-21st). Lancet 2014;384:869-79",
}
"""Chart -> where it was published, for those that DICOM has no code of."""

EQUATIONS = {"hadlock": HADLOCK}
"""Chart -> its code in CID 12013."""
