"""GIF, BMP and TIFF files of every kind that both Pillow and hfauto-pipe read.

Files that Pillow cannot write are built here from the format's tags.
"""
import os
import struct

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import load_image

from cases_images import picture
from cases_pictures import XMP
from tools import case, versions, write_golden, write_tensors


def palette_of(count):
    return [(37 * i * k + 11 * k) % 256 for i in range(count) for k in (1, 3, 7)]


def indices(width, height, seed, count):
    return (picture(width, height, seed, 1)[..., 0].astype(int) * count // 256).astype(np.uint8)


def paletted(width, height, seed, count):
    image = Image.fromarray(indices(width, height, seed, count), "P")
    image.putpalette(palette_of(count))
    return image


# ------------------------------------------------------------------------------ GIF
def gif_frame(left, top, image, palette=None, interlace=False, transparent=None):
    """A frame with an LZW code that is reset before the table grows: 9-bit codes for 8-bit indices."""
    rows, (height, width) = image, image.shape
    if interlace:
        order = [*range(0, height, 8), *range(4, height, 8), *range(2, height, 4), *range(1, height, 2)]
        rows = image[order]
    bits, count, data = 0, 0, bytearray()
    for place, value in enumerate(rows.flatten()):
        codes = [256, int(value)] if place % 200 == 0 else [int(value)]
        for code in codes:
            bits |= code << count
            count += 9
    bits |= 257 << count
    count += 9
    data = bits.to_bytes((count + 7) // 8, "little")
    blocks = b"".join(bytes([len(data[i:i + 255])]) + data[i:i + 255] for i in range(0, len(data), 255))
    control = b""
    if transparent is not None:
        control = b"!\xf9\x04" + struct.pack("<BHBB", 1, 0, transparent, 0)
    flags = (0x40 if interlace else 0) | (0x80 | 7 if palette else 0)
    head = struct.pack("<BHHHHB", 0x2c, left, top, width, height, flags)
    return control + head + bytes(palette or b"") + b"\x08" + blocks + b"\0"


def gif(path, width, height, frames, palette=None, bits=8, background=0):
    flags = 0x80 | bits - 1 if palette else 0
    with open(path, "wb") as f:
        f.write(b"GIF89a" + struct.pack("<HHBBB", width, height, flags, background, 0))
        f.write(bytes(palette or b"") + b"".join(frames) + b";")


def gifs(to):
    image = paletted(23, 17, 500, 16)
    image.save(to("gif-palette.gif"))
    image.save(to("gif-interlaced.gif"), interlace=True)
    paletted(40, 30, 501, 256).save(to("gif-256.gif"), transparency=3)
    Image.fromarray(picture(19, 11, 502, 1)[..., 0]).save(to("gif-gray.gif"))
    image.save(to("gif-animated.gif"), save_all=True, append_images=[paletted(23, 17, 503, 16)])
    Image.fromarray(picture(64, 48, 504)).save(to("gif-of-rgb.gif"))
    frame, colors = indices(9, 14, 505, 200), palette_of(256)
    gif(to("gif-part-of-screen.gif"), 20, 19, [gif_frame(5, 3, frame)], colors)
    gif(to("gif-part-transparent.gif"), 20, 19, [gif_frame(5, 3, frame, transparent=9)], colors)
    gif(to("gif-beyond-screen.gif"), 8, 8, [gif_frame(2, 1, frame)], colors)
    gif(to("gif-local-palette.gif"), 9, 14, [gif_frame(0, 0, frame, colors[::-1])], colors)
    gif(to("gif-no-palette.gif"), 9, 14, [gif_frame(0, 0, frame)])
    gif(to("gif-short-palette.gif"), 9, 14, [gif_frame(0, 0, frame)], palette_of(8), bits=3)
    gif(to("gif-interlaced-rows.gif"), 9, 14, [gif_frame(0, 0, frame, interlace=True)], colors)
    two = gif_frame(0, 0, frame) + gif_frame(0, 0, frame[::-1])
    gif(to("gif-two-frames.gif"), 9, 14, [b"!\xfe\x05hello\0", two], colors, background=7)


# ------------------------------------------------------------------------------ BMP
def bmp(path, width, height, bits, rows, compression=0, palette=b"", colors=0, masks=b"", size=40, top_down=False,
        extra=b""):
    """`rows` as in the file; `masks` are in the header, or after a header of 40 bytes."""
    head = struct.pack("<IiiHHIIiiII", size, width, -height if top_down else height, 1, bits, compression, 0, 0, 0,
                       colors, 0)
    head += masks
    head += b"\0" * (size - len(head))
    offset = 14 + len(head) + len(palette)
    with open(path, "wb") as f:
        f.write(b"BM" + struct.pack("<IHHI", 0, 0, 0, offset) + head + palette + extra + rows)


def padded(rows):
    return b"".join(row + b"\0" * (-len(row) % 4) for row in rows)


def bmps(to):
    color = picture(21, 13, 600, 4)
    rgb = Image.fromarray(color[..., :3].copy())
    rgb.save(to("bmp-24.bmp"))
    Image.fromarray(color).save(to("bmp-32.bmp"))
    Image.fromarray(color[..., 0].copy()).save(to("bmp-gray.bmp"))
    Image.fromarray(color[..., 0] > 90).save(to("bmp-1.bmp"))
    paletted(21, 13, 601, 200).save(to("bmp-8.bmp"))
    entries = b"".join(bytes(palette_of(16)[i:i + 3]) + b"\0" for i in range(0, 48, 3))
    low = indices(21, 13, 602, 16)
    nibbles = [bytes((row[i] << 4) | (row[i + 1] if i + 1 < len(row) else 0) for i in range(0, len(row), 2)) for row in low]
    bmp(to("bmp-4.bmp"), 21, 13, 4, padded(nibbles), palette=entries)
    bmp(to("bmp-4-few-colors.bmp"), 21, 13, 4, padded(nibbles), palette=entries[:40], colors=10)
    bits = [np.packbits(row & 1).tobytes() for row in low]
    bmp(to("bmp-1-palette.bmp"), 21, 13, 1, padded(bits), palette=entries[:8])
    deep = np.random.default_rng(603).integers(0, 1 << 16, (13, 21)).astype("<u2")
    rows = padded([row.tobytes() for row in deep])
    bmp(to("bmp-16-555.bmp"), 21, 13, 16, rows)
    for name, masks in [("565", (0xf800, 0x7e0, 0x1f)), ("555-masks", (0x7c00, 0x3e0, 0x1f))]:
        bmp(to(f"bmp-16-{name}.bmp"), 21, 13, 16, rows, compression=3, masks=struct.pack("<III", *masks))
    quads = padded([row.tobytes() for row in color])
    layouts = {
        "bgrx": (0xff0000, 0xff00, 0xff, 0), "xbgr": (0xff000000, 0xff0000, 0xff00, 0),
        "bgxr": (0xff000000, 0xff00, 0xff, 0), "abgr": (0xff000000, 0xff0000, 0xff00, 0xff),
        "rgba": (0xff, 0xff00, 0xff0000, 0xff000000), "bgra": (0xff0000, 0xff00, 0xff, 0xff000000),
        "bgar": (0xff000000, 0xff00, 0xff, 0xff0000), "none": (0, 0, 0, 0),
    }
    for name, masks in layouts.items():
        bmp(to(f"bmp-32-{name}.bmp"), 21, 13, 32, quads, compression=3, masks=struct.pack("<IIII", *masks), size=124)
    bmp(to("bmp-top-down.bmp"), 21, 13, 32, quads, top_down=True)
    with open(to("bmp-core.bmp"), "wb") as f:
        f.write(b"BM" + struct.pack("<IHHI", 0, 0, 0, 26) + struct.pack("<IHHHH", 12, 21, 13, 1, 24))
        f.write(padded([row[:, :3].tobytes() for row in color]))
    full = b"".join(bytes(palette_of(256)[i:i + 3]) + b"\0" for i in range(0, 768, 3))
    runs = bytes([5, 1, 3, 2, 0, 3, 7, 8, 9, 0, 0, 0,            # runs, an absolute part, end of line
                  11, 4, 0, 2, 2, 1, 2, 200, 0, 4, 1, 2, 3, 4,   # a run to the end, a step right and up, absolute
                  0, 0, 11, 6, 0, 1])
    bmp(to("bmp-rle8.bmp"), 11, 5, 8, runs + bytes([11, 7] * 3), compression=1, palette=full)
    runs = bytes([5, 0x12, 3, 0x34, 0, 3, 0x56, 0x70, 0, 0, 11, 0x89, 0, 0, 0, 5, 0x12, 0x34, 0x50, 0, 6, 0xab, 0, 1])
    bmp(to("bmp-rle4.bmp"), 11, 3, 4, runs, compression=2, palette=entries)


# ------------------------------------------------------------------------------ TIFF
def tiff(path, width, height, rows, photometric, bits=8, samples=1, order="<", big=False, strips=1, **tags):
    """`rows` is the concatenated data of the strips, or a list of tiles."""
    data = list(rows) if isinstance(rows, list) else [rows[i * len(rows) // strips:(i + 1) * len(rows) // strips]
                                                      for i in range(strips)]
    is_tiled = "tile" in tags
    entries = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * samples), 259: (3, [1]), 262: (3, [photometric]),
               277: (3, [samples])}
    entries |= {322: (4, [tags["tile"][0]]), 323: (4, [tags.pop("tile")[1]])} if is_tiled else {278: (4, [-(-height // strips)])}
    entries |= {int(key[1:]): value for key, value in tags.items()}
    offsets, counts = (324, 325) if is_tiled else (273, 279)
    size, count, head = (8, "Q", 16) if big else (4, "L", 8)
    entries[offsets], entries[counts] = (4, [0] * len(data)), (4, [len(part) for part in data])
    kinds = {1: "B", 3: "H", 4: "L"}
    directory = head
    first = directory + (8 if big else 2) + len(entries) * (20 if big else 12) + size
    packed = {key: struct.pack(order + str(len(values)) + kinds[kind], *values) for key, (kind, values) in entries.items()}
    behind = first + sum(len(p) + len(p) % 2 for p in packed.values() if len(p) > size)
    starts = [behind + sum(map(len, data[:i])) for i in range(len(data))]
    entries[offsets] = (4, starts)
    packed[offsets] = struct.pack(order + str(len(starts)) + "L", *starts)
    out = (b"II" if order == "<" else b"MM")
    out += struct.pack(order + "HHHQ", 43, 8, 0, directory) if big else struct.pack(order + "HL", 42, directory)
    out += struct.pack(order + ("Q" if big else "H"), len(entries))
    values = b""
    for key in sorted(entries):
        kind, numbers = entries[key]
        out += struct.pack(order + "HH" + count, key, kind, len(numbers))
        if len(packed[key]) <= size:
            out += packed[key].ljust(size, b"\0")
        else:
            out += struct.pack(order + count, first + len(values))
            values += packed[key] + b"\0" * (len(packed[key]) % 2)
    out += b"\0" * size + values + b"".join(data)
    with open(path, "wb") as f:
        f.write(out)


def tiffs(to):
    color = picture(21, 18, 700, 4)
    rgb, gray = Image.fromarray(color[..., :3].copy()), Image.fromarray(color[..., 0].copy())
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        rgb.save(to(f"tiff-rgb-{compression}.tiff"), compression=compression)
    rgb.save(to("tiff-rgb-predictor.tiff"), compression="tiff_lzw", tiffinfo={317: 2})
    gray.save(to("tiff-gray.tiff"))
    Image.fromarray(color).save(to("tiff-rgba.tiff"))
    Image.fromarray(color, "CMYK").save(to("tiff-cmyk.tiff"), compression="tiff_lzw")
    Image.fromarray(color[..., :2].copy(), "LA").save(to("tiff-la.tiff"))
    paletted(21, 18, 701, 200).save(to("tiff-palette.tiff"))
    bilevel = gray.point(lambda value: 255 * (value > 90)).convert("1")
    for compression in ("raw", "group4", "packbits"):
        bilevel.save(to(f"tiff-1-{compression}.tiff"), compression=compression)
    deep = np.random.default_rng(702).integers(0, 700, (18, 21))
    Image.fromarray(deep.astype(np.uint16)).save(to("tiff-16.tiff"))
    Image.fromarray(deep.astype(np.int32) - 200).save(to("tiff-i32.tiff"))
    Image.fromarray((deep / 2 - 50).astype(np.float32)).save(to("tiff-f32.tiff"))
    for value in range(1, 9):
        rgb.save(to(f"tiff-turned-{value}.tiff"), tiffinfo={274: value})
    rgb.save(to("tiff-turned-xmp.tiff"), tiffinfo={700: XMP.format(6).encode()})
    rgb.save(to("tiff-pages.tiff"), save_all=True, append_images=[gray])

    w, h = 21, 18
    one, low = color[..., 0].copy(), indices(w, h, 703, 16)

    def packed(values, bits):
        per = 8 // bits
        rows = []
        for row in values:
            row = [*map(int, row), *[0] * (-len(row) % per)]
            rows.append(bytes(sum(row[i + k] << bits * (per - 1 - k) for k in range(per)) for i in range(0, len(row), per)))
        return b"".join(rows)
    for photometric in (0, 1):
        for bits in (1, 2, 4):
            tiff(to(f"tiff-gray-{bits}-{photometric}.tiff"), w, h, packed(low >> 4 - bits, bits), photometric, bits)
        tiff(to(f"tiff-gray-8-{photometric}.tiff"), w, h, one.tobytes(), photometric, strips=3)
        tiff(to(f"tiff-gray-16-{photometric}.tiff"), w, h, deep.astype("<u2").tobytes(), photometric, 16)
    tiff(to("tiff-gray-16-big-endian.tiff"), w, h, deep.astype(">u2").tobytes(), 1, 16, order=">")
    tiff(to("tiff-gray-i16.tiff"), w, h, (deep - 200).astype("<i2").tobytes(), 1, 16, t339=(3, [2]))
    tiff(to("tiff-gray-i32-big-endian.tiff"), w, h, (deep - 200).astype(">i4").tobytes(), 1, 32, order=">", t339=(3, [2]))
    reverse = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))
    tiff(to("tiff-fill-order.tiff"), w, h, one.tobytes().translate(reverse), 1, t266=(3, [2]))
    tiff(to("tiff-fill-order-1.tiff"), w, h, packed(low >> 3, 1).translate(reverse), 0, 1, t266=(3, [2]))
    three = color[..., :3].copy()
    tiff(to("tiff-big.tiff"), w, h, three.tobytes(), 2, samples=3, big=True)
    tiff(to("tiff-big-endian.tiff"), w, h, three.tobytes(), 2, samples=3, order=">", strips=2)
    tiff(to("tiff-planes.tiff"), w, h, [three[..., i].tobytes() for i in range(3)], 2, samples=3, t284=(3, [2]))
    tiles = []
    for y in range(0, h, 16):
        for x in range(0, w, 16):
            tile = np.zeros((16, 16, 3), np.uint8)
            part = three[y:y + 16, x:x + 16]
            tile[:part.shape[0], :part.shape[1]] = part
            tiles.append(tile.tobytes())
    tiff(to("tiff-tiles.tiff"), w, h, tiles, 2, samples=3, tile=(16, 16))
    for name, extra in [("unspecified", 0), ("premultiplied", 1), ("alpha", 2)]:
        tiff(to(f"tiff-rgb-{name}.tiff"), w, h, color.tobytes(), 2, samples=4, t338=(3, [extra]))
    tiff(to("tiff-rgb-no-extra.tiff"), w, h, color.tobytes(), 2, samples=4)
    wide = (color.astype(np.uint16) << 8) + picture(w, h, 704, 4)
    for order in "<>":
        name = {"<": "little", ">": "big"}[order]
        tiff(to(f"tiff-rgb-16-{name}.tiff"), w, h, wide[..., :3].astype(order + "u2").tobytes(), 2, 16, 3, order)
        tiff(to(f"tiff-rgba-16-{name}.tiff"), w, h, wide.astype(order + "u2").tobytes(), 2, 16, 4, order, t338=(3, [2]))
    tiff(to("tiff-cmyk-16.tiff"), w, h, wide.astype("<u2").tobytes(), 5, 16, 4)
    five = np.concatenate([color, color[..., :1]], -1)
    tiff(to("tiff-cmyk-extra.tiff"), w, h, five.tobytes(), 5, samples=5, t338=(3, [0]))
    tiff(to("tiff-rgb-two-extra.tiff"), w, h, five.tobytes(), 2, samples=5, t338=(3, [0, 0]))
    tiff(to("tiff-gray-extra.tiff"), w, h, color[..., :2].tobytes(), 1, samples=2, t338=(3, [0]))
    for bits in (1, 2, 4):
        colors = (3, [256 * value for k in range(3) for value in palette_of(1 << bits)[k::3]])
        tiff(to(f"tiff-palette-{bits}.tiff"), w, h, packed(low >> 4 - bits, bits), 3, bits, t320=colors)


@case
def bitmaps(folder):
    """The RGB pixels of each file; see README.md."""
    def to(name):
        return os.path.join(folder, name)
    gifs(to)
    bmps(to)
    tiffs(to)
    names, rgb = sorted(os.listdir(folder)), {}
    for name in names:
        try:
            rgb[name] = torch.from_numpy(np.asarray(load_image(to(name))).copy())
        except Exception as error:
            raise RuntimeError(name) from error
    write_tensors(folder, rgb)
    write_golden(folder, {"library versions": versions() | {"pillow": Image.__version__}, "images": names,
                          "notes": "opened as transformers' pipelines open them; each tensor has its file's name"})
