"""Files of every kind that Pillow opens as JPEG, PNG or WebP, and resized images.

Files that Pillow cannot write are built here, or by changing bytes of others.
"""
import os
import struct
import zlib

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from transformers.image_utils import load_image

from cases_images import picture
from tools import case, versions, write_golden, write_tensors

XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def patched(path, changes):
    """Changes bytes at places counted from the first occurrence of a marker."""
    with open(path, "rb") as f:
        content = bytearray(f.read())
    for marker, offset, old, new in changes:
        at = content.index(marker) + offset
        assert content[at] == old, (path, marker, hex(content[at]))
        content[at] = new
    with open(path, "wb") as f:
        f.write(content)


def png(path, pixels, color_type, *chunks):
    """16 bits per channel: (height, width, channels) of u16."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)))
        for kind, content in chunks:
            f.write(chunk(kind, content))
        f.write(chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def jpegs(to):
    seed = 100

    def save(name, width, height, channels=3, mode=None, **options):
        nonlocal seed
        seed += 1
        pixels = picture(width, height, seed, channels)
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode).save(to(name), **options)
        return to(name)
    for sampling in ("4:4:4", "4:2:2", "4:2:0"):
        short = sampling.replace(":", "")
        save(f"jpeg-{short}.jpg", 37, 29, subsampling=sampling, quality=80)
        save(f"jpeg-{short}-progressive.jpg", 45, 35, subsampling=sampling, quality=92, progressive=True)
        for width, height in [(1, 1), (2, 3), (3, 2), (5, 1), (4, 17), (5, 18), (6, 19), (33, 16)]:
            save(f"jpeg-{short}-{width}x{height}.jpg", width, height, subsampling=sampling, quality=70)
    save("jpeg-gray.jpg", 25, 19, 1)
    save("jpeg-gray-progressive.jpg", 25, 19, 1, progressive=True, quality=97)
    save("jpeg-restart-blocks.jpg", 50, 34, restart_marker_blocks=1, quality=85)
    save("jpeg-restart-rows.jpg", 50, 34, restart_marker_rows=1, quality=85, progressive=True)
    save("jpeg-quality-1.jpg", 40, 30, quality=1)
    save("jpeg-quality-100.jpg", 40, 30, quality=100, optimize=True)
    save("jpeg-rgb.jpg", 21, 15, keep_rgb=True)
    save("jpeg-cmyk-progressive.jpg", 26, 18, 4, "CMYK", progressive=True)
    patched(save("jpeg-ycck.jpg", 26, 18, 4, "CMYK"), [(b"Adobe", 11, 0, 2)])
    patched(save("jpeg-cmyk-no-adobe.jpg", 26, 18, 4, "CMYK"), [(b"Adobe", 0, ord("A"), ord("B"))])
    sof, jfif = b"\xff\xc0", b"JFIF"
    # As many blocks at other positions.
    patched(save("jpeg-440.jpg", 32, 32, subsampling="4:2:2"), [(sof, 11, 0x21, 0x12)])
    patched(save("jpeg-411.jpg", 32, 32, subsampling="4:2:0"), [(sof, 11, 0x22, 0x41)])
    patched(save("jpeg-411-down.jpg", 32, 32, subsampling="4:2:0"), [(sof, 11, 0x22, 0x14)])
    patched(save("jpeg-no-jfif.jpg", 20, 20), [(jfif, 0, ord("J"), ord("K"))])
    for value in range(1, 10):
        save(f"jpeg-turned-{value}.jpg", 19, 12, exif=orientation(value))
    save("jpeg-turned-xmp.jpg", 19, 12, xmp=XMP.format(8).encode())
    with open(to("jpeg-420.jpg"), "rb") as f:
        whole = f.read()
    with open(to("jpeg-more-behind.jpg"), "wb") as f:
        f.write(whole + b"more")


def pngs(to):
    color, gray = picture(22, 16, 200, 4), picture(22, 16, 201, 1)[..., 0]
    Image.fromarray(gray > 70).save(to("png-1.png"))
    Image.fromarray(gray).save(to("png-8-key.png"), transparency=5)
    Image.fromarray(color[..., :2].copy(), "LA").save(to("png-la.png"))
    Image.fromarray(color).save(to("png-rgba.png"))
    Image.fromarray(color[..., :3].copy()).save(to("png-rgb-key.png"), transparency=(1, 2, 3))
    palette = Image.fromarray(gray // 64, "P")
    palette.putpalette([(40 * i * k) % 256 for i in range(4) for k in (1, 3, 7)])
    for bits in (2, 4, 8):
        palette.save(to(f"png-palette-{bits}.png"), bits=bits, transparency=bytes([255, 0, 128]))
    deep = (picture(14, 11, 202, 4).astype(np.uint16) << 8) + picture(14, 11, 203, 4)
    png(to("png-16-rgb.png"), deep[..., :3], 2)
    png(to("png-16-rgba.png"), deep, 6)
    png(to("png-16-la.png"), deep[..., :2], 4)
    small = deep[..., :1] >> 8
    small[:3] += 200
    small[5:] *= 300
    png(to("png-16-gray.png"), small, 0)
    png(to("png-16-gray-key.png"), small, 0, (b"tRNS", struct.pack(">H", int(small[4, 4, 0]))))
    rgb = Image.fromarray(color[..., :3].copy())
    rgb.save(to("png-turned.png"), exif=orientation(6))
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.format(3), zip=True)
    rgb.save(to("png-turned-xmp.png"), pnginfo=info)
    info = PngInfo()
    exif = orientation(8).tobytes()
    lines = [exif.hex()[i:i + 72] for i in range(0, 2 * len(exif), 72)]
    info.add_text("Raw profile type exif", "\n".join(["", "exif", f"{len(exif):8}", *lines, ""]), zip=True)
    rgb.save(to("png-turned-raw-profile.png"), pnginfo=info)


def webps(to):
    color = picture(30, 23, 300, 4)
    rgb = Image.fromarray(color[..., :3].copy())
    rgb.save(to("webp-lossless.webp"), lossless=True)
    Image.fromarray(color).save(to("webp-lossless-alpha.webp"), lossless=True, exact=True)
    rgb.save(to("webp-lossy.webp"), quality=80)
    rgb.resize((29, 22)).save(to("webp-lossy-odd.webp"), quality=40)
    Image.fromarray(color).save(to("webp-lossy-alpha.webp"), quality=80)
    rgb.save(to("webp-turned.webp"), lossless=True, exif=orientation(5))
    rgb.save(to("webp-animated.webp"), lossless=True, save_all=True,
             append_images=[Image.fromarray(picture(30, 23, 301))])


@case
def pictures(folder):
    """The RGB pixels of each file; see README.md."""
    def to(name):
        return os.path.join(folder, name)
    jpegs(to)
    pngs(to)
    webps(to)
    names, rgb = sorted(os.listdir(folder)), {}
    for name in names:
        rgb[name] = torch.from_numpy(np.asarray(load_image(to(name))).copy())
    write_tensors(folder, rgb)
    write_golden(folder, {"library versions": versions() | {"pillow": Image.__version__}, "images": names,
                          "notes": "opened as transformers' pipelines open them; each tensor has its file's name"})


@case
def resampling(folder):
    """Small images resized with every filter of Pillow."""
    tensors = {}
    for i, (width, height) in enumerate([(7, 5), (31, 22), (2, 3), (1, 1), (90, 64)]):
        pixels = picture(width, height, 400 + i)
        # Extreme values, at which sharp filters overshoot.
        pixels[pixels > 180], pixels[pixels < 40] = 255, 0
        tensors[f"from.{i}"] = torch.from_numpy(pixels)
        for to in [(7, 5), (7, 8), (16, 16), (3, 2), (1, 4), (45, 11), (20, 70)]:
            for code in Image.Resampling:
                resized = np.asarray(Image.fromarray(pixels).resize(to, code)).copy()
                tensors[f"resized.{i}.{to[0]}x{to[1]}.{code.name.lower()}"] = torch.from_numpy(resized)
    write_tensors(folder, tensors)
    write_golden(folder, {"library versions": versions() | {"pillow": Image.__version__},
                          "notes": "resized.{i}.{width}x{height}.{filter} is from.{i} by Image.resize; (height, width, 3) of u8"})
