"""A figure for the page: the same drawing in fewer bytes, as a data URI.

Matplotlib writes six digits, a style for every marker, and a group around every line of the tree; with thirty
figures the page would be five megabytes. Coordinates keep a tenth of a point, which is less than a pixel.
"""

import collections
import re
import urllib.parse
from xml.etree import ElementTree

from markupsafe import Markup

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
NEEDLESS = ("metadata", "title", "desc")
PLACES = re.compile(r"-?\d+\.\d+")
COORDINATES = ("x", "y", "points")
REFERENCE = re.compile(r"(?<=url\(#)[^)]+(?=\))|(?<=^#).+$")
"""url(#name) in any attribute, #name in href; a colour is neither."""
UNESCAPED = " !$'()*+,-./:;=?@[]^_`{|}~"
"""what may stand in a data URI within double quotes."""


def data_uri(svg: bytes) -> Markup:
    """The value of an attribute, which is not to be escaped again."""
    return Markup("data:image/svg+xml,") + Markup(urllib.parse.quote(small(svg), safe=UNESCAPED))


def size(svg: bytes) -> tuple[float, float]:
    """Width and height in points, those of the view box."""
    box = ElementTree.fromstring(svg).get("viewBox", "")
    numbers = [float(number) for number in box.replace(",", " ").split()]
    if len(numbers) != 4:
        raise ValueError(f"viewBox = {box!r}; allowed: four numbers")
    return numbers[2], numbers[3]


def small(svg: bytes) -> str:
    """The drawing with short names, short numbers and nothing that is not drawn."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in NEEDLESS:
                parent.remove(child)
    for node in root.iter():
        _shorten(node)
    _rename(root)
    _flatten(root)
    text = ElementTree.tostring(root, encoding="unicode")
    text = re.sub(r"\bns\d+:|(?<=xmlns):ns\d+(?==)", "", text)
    return re.sub("<[^>]*>", _quoted, text)


def _quoted(tag: re.Match[str]) -> str:
    """Single quotes, which a data URI may have."""
    return tag[0].replace("'", "&#39;").replace('"', "'").replace(" />", "/>")


def _shorten(node: ElementTree.Element) -> None:
    node.text = (node.text or "").strip() or None
    node.tail = (node.tail or "").strip() or None
    for name in set(node.attrib) & {*COORDINATES}:
        node.set(name, PLACES.sub(_rounded, node.attrib[name]))
    if "d" in node.attrib:
        node.set("d", _path(node.attrib["d"]))
    if "transform" in node.attrib:
        # Scales are factors, and keep their digits.
        node.set("transform", re.sub(r"translate\([^)]*\)", _moved, node.attrib["transform"]))
    if "style" in node.attrib:
        node.set("style", re.sub(r"\s*([:;])\s*", r"\1", node.attrib["style"]))
    if reference := node.attrib.pop(f"{{{XLINK}}}href", None):
        node.set("href", reference)


def _rounded(number: re.Match[str]) -> str:
    return f"{round(float(number[0]), 1) + 0.0:g}"  # -0.0 is 0


def _moved(translate: re.Match[str]) -> str:
    return PLACES.sub(_rounded, translate[0])


def _path(text: str) -> str:
    """A path whose commands are written where they change: M 0 0 1 1 is a line, as is L 0 0 1 1."""
    words: list[str] = []
    last = ""
    for word in PLACES.sub(_rounded, text).split():
        if word.isalpha():
            if word != last and (last, word) != ("M", "L"):
                words.append(word)
            last = word
        else:
            words.append(word)
    return " ".join(words)


def _rename(root: ElementTree.Element) -> None:
    """Short names, the most used the shortest; names that nothing refers to go."""
    used = collections.Counter(
        name
        for node in root.iter()
        for key, value in node.attrib.items()
        if key == "href" or "url(" in value
        for name in REFERENCE.findall(value)
    )
    names = {name: f"i{number:x}" for number, (name, _) in enumerate(used.most_common())}
    for node in root.iter():
        for key, value in list(node.attrib.items()):
            if key == "href" or "url(" in value:
                node.set(key, REFERENCE.sub(lambda m: names[m[0]], value))
            elif key == "id" and value in names:
                node.set(key, names[value])
            elif key == "id":
                del node.attrib[key]


def _flatten(parent: ElementTree.Element) -> None:
    """Groups that say nothing go, and neighbours of one style share a group that has it."""
    for child in parent:
        _flatten(child)
    children: list[ElementTree.Element] = []
    for child in parent:
        bare = child.tag == f"{{{SVG}}}g" and not child.attrib
        children += list(child) if bare else [child]
    runs: list[list[ElementTree.Element]] = []
    for child in children:
        same = runs and "style" in child.attrib and runs[-1][0].get("style") == child.get("style")
        same = same and child.tag == runs[-1][0].tag == f"{{{SVG}}}use"
        if same:
            runs[-1].append(child)
        else:
            runs.append([child])
    parent[:] = []
    for run in runs:
        if len(run) == 1:
            parent.append(run[0])
            continue
        group = ElementTree.SubElement(parent, f"{{{SVG}}}g", {"style": run[0].attrib["style"]})
        for child in run:
            del child.attrib["style"]
            group.append(child)
