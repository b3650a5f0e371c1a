"""Small image files, and data sets of them in the layouts that are read."""

import io
import pickle
import zlib

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)
TRAIN, VAL, TEST = ["otter", "apple", "ray"], ["shark"], ["bowl", "tank", "crab"]
EACH = 6


def encoded(pixels, kind="PNG", mode=None, **options):
    """A file of uint8 pixels, shape (H, W) or (H, W, channels)."""
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def png_bomb(side):
    """A PNG file of some hundred bytes that says it has side x side pixels in colour."""
    small = bytearray(encoded(np.zeros((1, 1, 3), np.uint8)))
    small[16:24] = side.to_bytes(4, "big") * 2
    small[29:33] = zlib.crc32(small[12:29]).to_bytes(4, "big")
    return bytes(small)


def coloured(side, count):
    """Images that are all different, uint8 (count, side, side, 3)."""
    return RNG.integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def by_part(side):
    """{part: {class: images}} with EACH images a class."""
    return {
        part: {name: coloured(side, EACH) for name in names}
        for part, names in (("train", TRAIN), ("val", VAL), ("test", TEST))
    }


def write_cifar_fs(folder, images):
    for part, classes in images.items():
        lists = folder / "splits" / "bertinetto"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{part}.txt").write_text("".join(f"{name}\n" for name in classes))
        for name, some in classes.items():
            (folder / "data" / name).mkdir(parents=True)
            for i, pixels in enumerate(some):
                (folder / "data" / name / f"{i:03}.png").write_bytes(encoded(pixels))


def write_mini_imagenet(folder, images):
    """csv files, the images of a class not side by side, as lossless JPEG does not exist: PNG named .jpg."""
    (folder / "images").mkdir(parents=True)
    for part, classes in images.items():
        lines = [(f"{name}{i:04}.jpg", name) for i in range(EACH) for name in classes]
        text = "".join(f"{file},{name}\n" for file, name in lines)
        (folder / f"{part}.csv").write_text("filename,label\n" + text)
        for name, some in classes.items():
            for i, pixels in enumerate(some):
                (folder / "images" / f"{name}{i:04}.jpg").write_bytes(encoded(pixels))


def cache(classes):
    """What a mini-imagenet-cache-*.pkl holds."""
    pixels = np.concatenate(list(classes.values()))
    numbers = {name: list(range(EACH * c, EACH * (c + 1))) for c, name in enumerate(classes)}
    return {"image_data": pixels, "class_dict": numbers}


def write_caches(folder, images, protocol=2):
    folder.mkdir(parents=True, exist_ok=True)
    for part, classes in images.items():
        (folder / f"mini-imagenet-cache-{part}.pkl").write_bytes(pickle.dumps(cache(classes), protocol))
