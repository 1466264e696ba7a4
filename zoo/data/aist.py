"""Names of AIST Dance DB clips, such as gBR_sBM_c01_d04_mBR0_ch01, and the labels in them.

genre, situation, camera (cAll in AIST++: all nine), dancer, music, choreography.
"""

import re

NAME_PATTERN = r"g(?P<style>[A-Z]{2})_s[A-Z]{2}_(?P<camera>c\d\d|cAll)_(?P<dancer>d\d+)_(?P<song>m[A-Z]{2}\d+)_ch\d+"
NAME = re.compile(NAME_PATTERN)
# genre code -> (name as in the papers, name as the built-in world spells its styles)
STYLES = {
    "BR": ("Break", "break"),
    "PO": ("Pop", "pop"),
    "LO": ("Lock", "lock"),
    "MH": ("Middle Hip-hop", "middle hip-hop"),
    "LH": ("LA style Hip-hop", "LA hip-hop"),
    "HO": ("House", "house"),
    "WA": ("Waack", "waack"),
    "KR": ("Krump", "krump"),
    "JS": ("Street Jazz", "street jazz"),
    "JB": ("Ballet Jazz", "ballet jazz"),
}


def paper_style(code: str) -> str:
    """The genre of a code as the papers write it; the clip's own text for an unknown code."""
    return STYLES[code][0] if code in STYLES else f"g{code}"


def world_style(code: str) -> str:
    """The genre of a code as the built-in world spells its styles; the code itself where it is unknown."""
    return STYLES[code][1] if code in STYLES else code


def with_all_cameras(key: str) -> str:
    """The name of a clip of any camera in AIST++'s lists: c01 becomes cAll."""
    return re.sub(r"(?<=_)c\d\d(?=_)", "cAll", key)
