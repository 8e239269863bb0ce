"""The embedded default data: drawn cartoon faces whose age and gender show in the picture.

They let the whole pipeline run without photos of people; what is measured on them says nothing
about people. Two hidden numbers drive what is drawn: an apparent age, some years off the true
one, and a femininity whose two distributions overlap. No model can therefore be perfect.
"""

import datetime
import math
import pathlib

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter

from agegender.data import utkface

_Array = npt.ArrayLike
RACE_SHARES = (0.42, 0.19, 0.15, 0.17, 0.07)  # as in UTKFace: White, Black, Asian, Indian, Other
SKIN_COLOURS = ((232, 192, 168), (122, 82, 60), (228, 188, 146), (176, 126, 92), (202, 154, 120))
DARK_HAIR_SHARES = (0.35, 0.97, 0.95, 0.95, 0.75)
HAIR_COLOURS = ((38, 28, 24), (112, 72, 42), (196, 156, 92), (142, 66, 34))  # the first is dark
EYE_COLOURS = ((62, 40, 26), (86, 118, 146), (92, 112, 70))  # the first goes with dark hair
CIRCLE = np.stack([f(np.linspace(0, 2 * math.pi, 24, endpoint=False)) for f in (np.cos, np.sin)], 1)


class _Pen:
    """Draws shapes given in face units: origin between the cheeks, x right, y down, chin near 1.

    The pose (scale, shift, roll, yaw) is drawn at random once and applied to every point.
    """

    def __init__(self, image: PIL.Image.Image, generator: np.random.Generator):
        self.draw = PIL.ImageDraw.Draw(image, "RGBA")
        self.scale = image.width * generator.uniform(0.35, 0.45)
        self.centre = image.width * (0.5 + generator.normal(0, 0.025, 2))
        roll = generator.normal(0, math.radians(6))
        cosine, sine = math.cos(roll), math.sin(roll)
        self.rotation = self.scale * np.array([[cosine, sine], [-sine, cosine]])
        self.yaw = np.clip(generator.normal(0, 0.08), -0.18, 0.18)

    def place(self, points: _Array) -> list[float]:
        """Return the points (N, 2) in pixels of the picture, as Pillow takes them."""
        points = np.asarray(points, float)
        # What lies in the middle of the face is nearest and moves furthest when the head turns.
        turned = points + np.exp(-((points[:, :1] / 0.9) ** 2)) * [self.yaw, 0]
        return (turned @ self.rotation + self.centre).ravel().tolist()

    def polygon(self, points: _Array, colour: _Array, opacity: float = 1) -> None:
        self.draw.polygon(self.place(points), _ink(colour, opacity))

    def ellipse(self, centre: _Array, radii: _Array, colour: _Array, opacity: float = 1) -> None:
        self.polygon(CIRCLE * radii + centre, colour, opacity)

    def line(self, points: _Array, width: float, colour: _Array, opacity: float = 1) -> None:
        width_pixels = max(1, round(width * self.scale))
        self.draw.line(self.place(points), _ink(colour, opacity), width_pixels, joint="curve")

    def arc(
        self, ends: _Array, bend: float, width: float, colour: _Array, opacity: float = 1
    ) -> None:
        """Draw a line from one end to the other, its middle moved down by `bend`."""
        along = np.linspace(0, 1, 9)[:, None]
        points = np.hstack([1 - along, along]) @ np.asarray(ends)
        self.line(points + [0, 4 * bend] * along * (1 - along), width, colour, opacity)


def _ink(colour: _Array, opacity: float = 1) -> tuple[int, ...]:
    """Return Pillow's red, green, blue, alpha of a colour (0 to 255) and an opacity (0 to 1)."""
    return tuple(int(min(max(value, 0), 255)) for value in np.append(colour, 255 * opacity))


def _ramp(value: float, start: float, end: float) -> float:
    """Return 0 up to `start`, 1 from `end` on, linear between."""
    return min(max((value - start) / (end - start), 0.0), 1.0)


def _head_outline(
    width: float, crown: float, chin: float, jaw_width: float, jaw_shape: float
) -> np.ndarray:
    """Return the closed outline (48, 2) of a head: half an ellipse above y = 0, a jaw below it."""
    angle = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    across, down, below = np.cos(angle), np.sin(angle), np.maximum(np.sin(angle), 0)
    curve = np.sign(across) * np.abs(across) ** np.where(down > 0, jaw_shape, 1.0)
    x = width * curve * (1 - (1 - jaw_width) * below)
    return np.stack([x, np.where(down > 0, chin * below**0.9, crown * down)], 1)


def draw_face(
    age_years: int,
    gender: int,
    race: int,
    generator: np.random.Generator,
    image_size_pixels: int = 128,
) -> np.ndarray:
    """Draw one face, RGB uint8 of shape (image_size_pixels, image_size_pixels, 3).

    Ages are 1 to 116 years, gender is 0 (male) or 1 (female), race 0 to 4 as in UTKFace.
    Raises ValueError for others. The same arguments and generator state give the same picture.
    """
    if not (1 <= age_years <= 116 and gender in (0, 1) and race in range(5)):
        raise ValueError(
            "expected an age of 1 to 116 years, gender 0 or 1 and race 0 to 4, "
            f"got {age_years}, {gender}, {race}"
        )
    chance, normal, uniform = generator.random, generator.normal, generator.uniform
    age = max(0.5, age_years + normal(0, min(0.6 + 0.14 * age_years, 5.0)))
    gender_strength = 0.5 + 0.5 * _ramp(age, 2, 15)  # a baby's gender hardly shows
    femininity = (2 * gender - 1) * gender_strength + normal(0, 0.5)

    def gender_cue() -> float:
        """Return about -1 for masculine, 1 for feminine; each feature goes its own way a little."""
        return float(np.clip(femininity + normal(0, 0.4), -1.8, 1.8))

    child = 1 - _ramp(age + normal(0, 1), 0, 19)
    old = _ramp(age + normal(0, 4), 28, 88)
    weight = normal(0, 0.05)

    # Colours.
    skin = np.array(SKIN_COLOURS[race]) * uniform(0.86, 1.08) + normal(0, 4, 3)
    skin = skin * (1 - 0.12 * old) + 0.12 * old * skin.mean()
    shade = skin * 0.6
    dark = chance() < DARK_HAIR_SHARES[race]
    hair = np.array(HAIR_COLOURS[0 if dark else generator.integers(1, 4)]) * uniform(0.7, 1.3)
    dyed = chance() < (0.25 if gender_cue() > 0 else 0.04)
    grey = 0.1 if dyed else 1 / (1 + math.exp(-(age + normal(0, 6) - 50) / 6))
    hair = hair * (1 - grey) + (165 + 70 * old) * grey
    eye_colour = EYE_COLOURS[0 if dark else generator.integers(0, 3)]

    # Proportions: a child has a large crown, a short jaw and a small nose; ears and nose grow on.
    width = 0.72 + 0.12 * child + weight
    crown, chin = 0.98 + 0.06 * child, 0.98 - 0.24 * child + 0.05 * old - 0.03 * gender_cue()
    jaw_width = 0.74 - 0.06 * gender_cue() + 0.1 * child + 0.12 * old + weight
    outline = _head_outline(width, crown, chin, jaw_width, 0.62 + 0.08 * gender_cue())
    eye_y, eye_x = -0.1 + 0.2 * child, 0.32 + normal(0, 0.015)
    nose_y = eye_y + 0.4 - 0.16 * child + 0.07 * old + normal(0, 0.015)
    mouth_y = nose_y + (chin - nose_y) * uniform(0.38, 0.46)

    # Behind the face: the room, long hair, shoulders, neck, ears. Drawn at twice the size.
    room = _ink(uniform(20, 235) + normal(0, 30, 3))[:3]
    image = PIL.Image.new("RGB", (2 * image_size_pixels, 2 * image_size_pixels), room)
    pen = _Pen(image, generator)
    for _ in range(generator.integers(2, 6)):
        thing = uniform(20, 235) + normal(0, 35, 3)
        pen.ellipse(uniform(-1.6, 1.6, 2), uniform(0.3, 1.3, 2), thing, 0.8)
    thin = 0.75 * _ramp(child, 0.8, 1.0)
    fall = 0.35 + 0.9 * gender_cue() * (1 - 0.7 * child) * (1 - 0.45 * old) + normal(0, 0.15)
    if fall > 0.25 + 0.6 * thin:
        spread = width * uniform(1.15, 1.4)
        back = [[-spread, -0.2], [spread, -0.2], [spread * 1.05, fall], [-spread * 1.05, fall]]
        pen.polygon(back, hair * 0.85)
        pen.ellipse((0, -0.2), (spread, 0.85), hair * 0.85)
    neck = 0.47 - 0.05 * gender_cue() - 0.08 * child
    pen.ellipse((0, 2.0), (1.35 - 0.15 * gender_cue() - 0.2 * child, 0.85), uniform(20, 235, 3))
    pen.polygon([[-neck, 0.5], [neck, 0.5], [neck * 1.1, 1.3], [-neck * 1.1, 1.3]], skin * 0.82)
    ear = 0.17 + 0.07 * old
    earring = chance() < (0.45 if gender_cue() > 0.3 else 0.04) * (1 - child)
    for side in (-1, 1):
        pen.ellipse((side * width, eye_y + 0.14), (0.1, ear), skin * 0.9)
        if earring:
            pen.ellipse((side * width * 1.02, eye_y + 0.16 + ear), (0.05, 0.09), (235, 205, 90))

    # Skin, and what age does to it: jowls, bags, creases of the forehead, crow's feet, folds.
    pen.polygon(outline, skin)
    fold = 0.1 + 0.9 * _ramp(age + normal(0, 5), 24, 70)
    for side in (-1, 1):
        pen.ellipse((side * 0.42, nose_y), (0.2, 0.14), skin + [26, -16, -10], 0.5 * child + 0.15)
        pen.ellipse((side * 0.46, chin * 0.72), (0.17, 0.2), shade, 0.32 * old)
        pen.ellipse((side * eye_x, eye_y + 0.15), (0.17, 0.07), shade, 0.55 * old)
        cheek = (side * 0.36, mouth_y + 0.05 + 0.15 * old)
        pen.arc([(side * 0.16, nose_y - 0.02), cheek], -0.03, 0.03, shade, fold)
    for number in range(3):
        crease = 0.9 * _ramp(age + normal(0, 5), 26 + 8 * number, 62 + 8 * number)
        y = eye_y - 0.34 - 0.13 * number
        pen.arc([(-0.36, y), (0.36, y)], normal(-0.03, 0.02), 0.025, shade, crease)
        for side in (-1, 1):
            corner = side * (eye_x + 0.19), eye_y + 0.01
            temple = side * (eye_x + 0.32), eye_y - 0.08 + 0.09 * number
            pen.arc([corner, temple], 0.01, 0.022, shade, crease)

    # Beard and moustache.
    if age > 16 and gender_cue() < -0.35 and chance() < 0.6:
        opacity, lower = uniform(0.2, 0.9), outline[outline[:, 1] > nose_y * uniform(0.3, 1.1)]
        if chance() < 0.7:
            upper = lower[::-1] * [0.62, 0] + [0, mouth_y - 0.13]
            pen.polygon(np.concatenate([lower * [1, 1.03], upper]), hair, opacity)
        if chance() < 0.8:
            pen.ellipse((0, mouth_y - 0.1), (0.25, 0.06), hair, opacity)

    # Eyes, brows, nose, mouth.
    eye_width = 0.155 + 0.03 * child + 0.008 * gender_cue()
    eye_height = eye_width * uniform(0.5, 0.6) * (1 + 0.5 * child - 0.35 * old)
    make_up = max(0.0, gender_cue()) * (1 - child)
    brow_y = eye_y - 0.19 - 0.025 * gender_cue() + 0.03 * old
    brow_width = max(0.02, 0.055 - 0.02 * gender_cue()) * (1 - 0.4 * child)
    iris, gaze = min(0.075 + 0.03 * child, eye_height * 1.05), normal(0, 0.03)
    nostril = 0.09 + 0.03 * (race == 1) - 0.03 * child + 0.025 * old
    pen.ellipse((0, nose_y), (nostril * 1.3, 0.07 + 0.02 * old), skin * 0.9)
    pen.line([[0.05, eye_y + 0.05], [0.07, nose_y - 0.05]], 0.03, shade, 0.5)
    for side in (-1, 1):
        x = side * eye_x
        pen.ellipse((x, eye_y), (eye_width, eye_height), (240, 238, 234))
        pen.ellipse((x + gaze, eye_y), (iris, iris), eye_colour)
        pen.ellipse((x + gaze, eye_y), (iris * 0.5, iris * 0.5), (12, 10, 10))
        lid = (x - eye_width * 1.08, eye_y), (x + eye_width * 1.08, eye_y)
        pen.arc(lid, -eye_height, 0.025 + 0.022 * make_up, (40, 26, 24))
        pen.arc(lid, -eye_height - 0.05 + 0.04 * old, 0.02, shade, 0.4 + 0.5 * old)
        brow = (x - side * 0.17, brow_y), (x + side * 0.19, brow_y + 0.03)
        pen.arc(brow, -0.05, brow_width, hair * 0.8, 0.85 - 0.5 * child)
        pen.ellipse((side * nostril * 0.7, nose_y + 0.04), (0.03, 0.02), shade * 0.6)
    along = np.linspace(-1, 1, 13)
    mouth_x = along * (0.24 - 0.06 * child + normal(0, 0.02))
    curve = mouth_y + normal(0.04, 0.04) * (1 - along**2)
    lips = max(0.025, 0.085 + 0.02 * gender_cue() - 0.045 * old)
    upper = np.stack([mouth_x, curve - 0.8 * lips * (1 - np.abs(along))], 1)
    lower = np.stack([mouth_x, curve + lips * (1 - along**2)], 1)
    pen.polygon(np.concatenate([upper, lower[::-1]]), skin * [0.85, 0.62, 0.6])
    pen.polygon(np.concatenate([upper, lower[::-1]]), (190, 40, 60), 0.4 * make_up)
    pen.line(np.stack([mouth_x, curve], 1), 0.022, shade * 0.5)

    # Hair on top: between the crown and a hairline that recedes, mostly in men.
    recede = _ramp(age + normal(0, 12), 25, 85) * max(0.05, 0.55 - 0.5 * gender_cue())
    hairline = eye_y - 0.5 + 0.1 * normal() - 0.45 * recede - 0.1 * child
    x = np.linspace(width * 0.97, -width * 0.97, 21)
    temples = min(-hairline, 0.5 + 0.3 * recede)  # how much lower the hair is there
    rim = hairline + temples * np.abs(x / width) ** uniform(2, 5)
    rim += normal(0, 0.02, 21) + 0.12 * (1 - recede) * np.sin(3 * (x - uniform(-0.5, 0.5)))
    if chance() > 0.35 * recede**2:
        top = np.roll(outline, 24, axis=0)[:25] * 1.07  # from left over the crown to right
        pen.polygon(np.concatenate([top, np.stack([x, rim], 1)]), hair, 1 - thin)

    if age > 5 and chance() < 0.06 + 0.4 * old:  # glasses
        frame, radius = (uniform(0.025, 0.06), uniform(10, 120, 3)), uniform(0.2, 0.25)
        for side in (-1, 1):
            ring = np.concatenate([CIRCLE, CIRCLE[:2]]) * [radius * 1.1, radius * 0.9]
            pen.line(ring + [side * eye_x, eye_y + 0.03], *frame)
            pen.line([[side * (eye_x + radius), eye_y], [side * width, eye_y]], *frame)
        pen.line([[radius - eye_x, eye_y], [eye_x - radius, eye_y]], *frame)

    return _photograph(image.reduce(2), generator)


def _photograph(image: PIL.Image.Image, generator: np.random.Generator) -> np.ndarray:
    """Return the drawing as a camera sees it: lit from one side, blurred, tinted and noisy."""
    image = image.filter(PIL.ImageFilter.GaussianBlur(generator.uniform(0.2, 1.2)))
    slope_x, slope_y = generator.normal(0, 0.16, 2)
    along = np.linspace(-1, 1, image.width)
    light = 1 + slope_x * along + slope_y * along[:, None]
    tint = generator.uniform(0.75, 1.15) * generator.normal(1, 0.03, 3)
    noise = generator.normal(0, generator.uniform(2, 9), light.shape)
    pixels = np.asarray(image) * (light[..., None] * tint) + noise[..., None]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _draw_age_years(generator: np.random.Generator) -> int:
    """Draw an age about as UTKFace has them: some babies, a peak in the twenties, a tail to 100."""
    if generator.random() < 0.14:
        return 1 + int(9 * generator.random() ** 2.5)
    return int(min(14 + generator.gamma(1.8, 13.5), 100))


def write_faces(folder: pathlib.Path, count: int = 3600, seed: int = 0) -> None:
    """Write `count` JPEG faces of 128 x 128 pixels, named as UTKFace names its own.

    An empty marker file tells the folder from one of people. The same seed and Pillow version
    give the same bytes. Raises FileExistsError where the folder holds anything already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"expected a new or empty folder, {folder} has files: name another")
    (folder / utkface.GENERATED_MARKER).touch()  # first: half a folder is no folder of people
    for index in range(count):
        generator = np.random.default_rng([seed, index])
        age_years, gender = _draw_age_years(generator), int(generator.integers(2))
        race = int(generator.choice(5, p=RACE_SHARES))
        face = PIL.Image.fromarray(draw_face(age_years, gender, race, generator))
        # Years that UTKFace's stamps (2016, 2017) never have: no name is taken for a real one.
        stamp = datetime.datetime(2000, 1, 1) + datetime.timedelta(seconds=index)
        name = f"{age_years}_{gender}_{race}_{stamp:%Y%m%d%H%M%S}000.jpg.chip.jpg"
        face.save(folder / name, "JPEG", quality=int(generator.integers(65, 96)))
