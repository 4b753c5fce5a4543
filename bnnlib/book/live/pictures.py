"""Small pictures drawn for the page, one of each class of CIFAR-10: nothing of the data set is shipped."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE, LARGE = 32, 256


def drawn() -> dict[str, np.ndarray]:
    """uint8 ``(32, 32, 3)`` by what the picture shows."""
    return {name: _small(draw) for name, draw in _PICTURES.items()}


def _small(draw) -> np.ndarray:
    picture = Image.new("RGB", (LARGE, LARGE))
    draw(picture, ImageDraw.Draw(picture))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(2)).resize((SIDE, SIDE), Image.Resampling.BOX))


def _sky(picture: Image.Image, top: tuple[int, ...], bottom: tuple[int, ...], low: int = 0, high: int = LARGE) -> None:
    """A vertical gradient, with a little noise: nothing that a camera sees is of one colour."""
    share = np.linspace(0, 1, high - low)[:, None, None]
    colours = np.array(top) * (1 - share) + np.array(bottom) * share
    noise = np.random.default_rng(low + high).normal(0, 5, (high - low, LARGE, 1))
    band = np.clip(np.broadcast_to(colours, (high - low, LARGE, 3)) + noise, 0, 255).astype(np.uint8)
    picture.paste(Image.fromarray(band), (0, low))


def _airplane(picture, to):
    _sky(picture, (96, 150, 214), (190, 216, 238))
    to.polygon([(20, 138), (44, 122), (206, 108), (240, 118), (236, 132), (70, 150)], fill=(226, 230, 236))
    to.polygon([(110, 130), (150, 124), (92, 204), (70, 208)], fill=(176, 182, 194))
    to.polygon([(128, 118), (156, 116), (124, 72), (110, 74)], fill=(200, 206, 216))
    to.polygon([(22, 136), (50, 124), (34, 84), (16, 86)], fill=(190, 60, 60))
    to.polygon([(70, 150), (236, 132), (230, 138), (84, 156)], fill=(150, 156, 170))


def _automobile(picture, to):
    _sky(picture, (206, 214, 220), (170, 176, 178), 0, 150)
    _sky(picture, (120, 120, 122), (96, 96, 98), 150)
    to.ellipse([26, 190, 234, 222], fill=(60, 60, 62))
    to.polygon([(18, 150), (60, 138), (92, 98), (176, 96), (208, 138), (240, 150), (242, 192), (16, 194)], fill=(190, 24, 28))
    to.polygon([(74, 138), (98, 106), (130, 105), (130, 138)], fill=(56, 70, 84))
    to.polygon([(138, 138), (138, 105), (170, 105), (196, 138)], fill=(56, 70, 84))
    for x in (68, 190):
        to.ellipse([x - 26, 166, x + 26, 218], fill=(24, 24, 26))
        to.ellipse([x - 13, 179, x + 13, 205], fill=(170, 172, 176))
    to.rectangle([226, 156, 242, 166], fill=(250, 236, 180))


def _bird(picture, to):
    _sky(picture, (128, 168, 104), (92, 132, 72))
    to.rectangle([0, 196, 256, 206], fill=(104, 76, 52))
    to.polygon([(40, 190), (96, 140), (112, 166)], fill=(84, 66, 52))
    to.ellipse([76, 92, 182, 184], fill=(150, 112, 80))
    to.ellipse([96, 122, 170, 190], fill=(222, 196, 160))
    to.polygon([(84, 118), (136, 112), (120, 168), (72, 172)], fill=(92, 70, 54))
    to.ellipse([140, 62, 196, 116], fill=(134, 98, 70))
    to.polygon([(192, 82), (222, 92), (192, 98)], fill=(226, 170, 60))
    to.ellipse([168, 76, 180, 88], fill=(16, 14, 12))
    for x in (118, 140):
        to.line([x, 184, x, 200], fill=(70, 54, 40), width=5)


def _cat(picture, to):
    _sky(picture, (176, 160, 140), (140, 122, 104))
    to.ellipse([40, 150, 216, 300], fill=(150, 138, 128))
    to.polygon([(60, 100), (66, 26), (122, 70)], fill=(132, 120, 110))
    to.polygon([(196, 100), (190, 26), (134, 70)], fill=(132, 120, 110))
    to.polygon([(72, 88), (76, 46), (106, 72)], fill=(206, 160, 152))
    to.polygon([(184, 88), (180, 46), (150, 72)], fill=(206, 160, 152))
    to.ellipse([52, 54, 204, 192], fill=(158, 146, 136))
    for x in (104, 128, 152):
        to.line([x, 58, x, 92], fill=(98, 88, 80), width=9)
    to.ellipse([88, 128, 168, 190], fill=(216, 208, 200))
    for x in (96, 160):
        to.ellipse([x - 17, 98, x + 17, 130], fill=(188, 196, 96))
        to.ellipse([x - 6, 99, x + 6, 130], fill=(14, 14, 12))
    to.polygon([(118, 142), (138, 142), (128, 154)], fill=(206, 120, 120))


def _deer(picture, to):
    _sky(picture, (110, 140, 84), (82, 108, 58), 0, 130)
    _sky(picture, (130, 148, 74), (104, 118, 60), 130)
    brown, dark = (150, 104, 62), (112, 76, 46)
    to.ellipse([52, 112, 178, 176], fill=brown)
    for x in (66, 86, 142, 164):
        to.polygon([(x - 8, 160), (x + 8, 160), (x + 4, 236), (x - 4, 236)], fill=dark)
    to.polygon([(146, 140), (178, 130), (204, 72), (180, 64)], fill=brown)
    to.ellipse([176, 48, 232, 88], fill=brown)
    to.polygon([(182, 60), (160, 40), (176, 70)], fill=dark)
    for side in (-1, 1):
        to.line([194, 52, 194 + 22 * side, 10], fill=(92, 70, 48), width=6)
        to.line([194 + 11 * side, 32, 194 + 30 * side, 26], fill=(92, 70, 48), width=5)
    to.ellipse([206, 60, 214, 68], fill=(12, 10, 8))
    to.ellipse([46, 116, 66, 136], fill=(232, 222, 206))


def _dog(picture, to):
    _sky(picture, (150, 178, 120), (112, 146, 84))
    to.ellipse([46, 160, 210, 310], fill=(196, 146, 88))
    to.ellipse([60, 40, 196, 190], fill=(206, 156, 96))
    to.polygon([(70, 56), (34, 78), (40, 156), (78, 128)], fill=(132, 86, 48))
    to.polygon([(186, 56), (222, 78), (216, 156), (178, 128)], fill=(132, 86, 48))
    to.ellipse([86, 112, 170, 202], fill=(240, 224, 200))
    for x in (102, 154):
        to.ellipse([x - 11, 88, x + 11, 112], fill=(30, 20, 14))
    to.ellipse([108, 122, 148, 150], fill=(22, 18, 18))
    to.polygon([(116, 172), (140, 172), (136, 204), (120, 204)], fill=(220, 110, 116))


def _frog(picture, to):
    _sky(picture, (112, 92, 64), (88, 70, 48))
    green, dark = (96, 148, 52), (66, 108, 36)
    to.ellipse([30, 140, 104, 226], fill=dark)
    to.ellipse([152, 140, 226, 226], fill=dark)
    to.ellipse([56, 82, 200, 218], fill=green)
    to.ellipse([82, 140, 174, 216], fill=(186, 200, 120))
    for x in (86, 170):
        to.ellipse([x - 26, 56, x + 26, 108], fill=green)
        to.ellipse([x - 16, 64, x + 16, 96], fill=(222, 190, 70))
        to.ellipse([x - 7, 70, x + 9, 90], fill=(14, 14, 10))
    to.arc([84, 92, 172, 150], 20, 160, fill=(40, 62, 24), width=6)
    for x in (64, 192):
        to.ellipse([x - 26, 204, x + 26, 230], fill=dark)


def _horse(picture, to):
    _sky(picture, (166, 198, 226), (204, 220, 228), 0, 150)
    _sky(picture, (122, 152, 76), (98, 124, 60), 150)
    brown, dark = (112, 64, 36), (58, 34, 22)
    to.ellipse([50, 100, 188, 172], fill=brown)
    for x in (66, 90, 148, 172):
        to.polygon([(x - 10, 150), (x + 10, 150), (x + 5, 232), (x - 5, 232)], fill=brown)
    to.polygon([(148, 130), (184, 146), (216, 70), (186, 48)], fill=brown)
    to.polygon([(184, 46), (206, 38), (246, 92), (232, 106), (200, 82)], fill=brown)
    to.polygon([(146, 118), (186, 44), (176, 40), (132, 106)], fill=dark)
    to.polygon([(54, 112), (30, 140), (28, 196), (44, 160), (62, 132)], fill=dark)
    to.polygon([(190, 48), (192, 26), (202, 44)], fill=brown)
    to.ellipse([208, 60, 216, 68], fill=(8, 6, 6))


def _ship(picture, to):
    _sky(picture, (150, 186, 220), (206, 220, 230), 0, 160)
    _sky(picture, (44, 92, 134), (26, 62, 98), 160)
    to.polygon([(14, 150), (244, 140), (222, 196), (44, 198)], fill=(40, 46, 62))
    to.polygon([(14, 150), (244, 140), (240, 150), (18, 160)], fill=(226, 228, 230))
    to.rectangle([66, 106, 170, 148], fill=(236, 238, 240))
    to.rectangle([84, 78, 142, 108], fill=(222, 226, 230))
    to.rectangle([100, 40, 124, 80], fill=(196, 52, 44))
    for x in range(76, 166, 18):
        to.ellipse([x, 118, x + 10, 128], fill=(50, 70, 96))
    to.line([190, 142, 190, 70], fill=(90, 90, 94), width=5)


def _truck(picture, to):
    _sky(picture, (176, 200, 222), (206, 214, 218), 0, 170)
    _sky(picture, (112, 112, 112), (86, 86, 88), 170)
    to.ellipse([14, 200, 246, 226], fill=(54, 54, 56))
    to.rectangle([14, 56, 162, 186], fill=(228, 230, 234))
    to.rectangle([14, 176, 240, 196], fill=(52, 54, 60))
    to.polygon([(168, 92), (214, 92), (240, 136), (242, 190), (168, 190)], fill=(36, 92, 176))
    to.polygon([(178, 102), (208, 102), (226, 134), (178, 134)], fill=(52, 66, 82))
    for x in (52, 102, 208):
        to.ellipse([x - 23, 172, x + 23, 218], fill=(22, 22, 24))
        to.ellipse([x - 10, 185, x + 10, 205], fill=(150, 152, 156))


_PICTURES = {
    "airplane": _airplane,
    "automobile": _automobile,
    "bird": _bird,
    "cat": _cat,
    "deer": _deer,
    "dog": _dog,
    "frog": _frog,
    "horse": _horse,
    "ship": _ship,
    "truck": _truck,
}
