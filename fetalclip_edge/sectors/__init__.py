"""Where in a scanner's screen the ultrasound is: found in the picture, or written in a profile."""

from fetalclip_edge.sectors.find import Sector, find_sector
from fetalclip_edge.sectors.profile import RegionProfile, read_profile
from fetalclip_edge.sectors.watch import SectorWatch, Shown, same_layout

__all__ = [
    "RegionProfile",
    "Sector",
    "SectorWatch",
    "Shown",
    "find_sector",
    "read_profile",
    "same_layout",
]
