"""The default data: drawn cartoon faces that show their age and gender.

They let the whole pipeline run without photos of people. Results on them say nothing about people.
Two hidden numbers determine the drawing: an apparent age some years off the true one, and a
femininity whose distributions overlap for the two genders. So no model can be perfect.
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
    """Draws shapes in face units: origin between the cheeks, x right, y down, chin near 1.

    The pose (scale, shift, roll, yaw) is chosen at random once and applied to every point.
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
        """Return the points (N, 2) in pixels of the picture, in Pillow's format."""
        points = np.asarray(points, float)
        # The middle of the face is nearest, so it moves furthest when the head turns.
        turned = points + np.exp(-((points[:, :1] / 0.9) ** 2)) * [self.yaw, 0]
        return (turned @ self.rotation + self.centre).ravel().tolist()

    # All of these pass their last arguments to `_ink`.
    def polygon(self, points: _Array, *ink) -> None:
        self.draw.polygon(self.place(points), _ink(*ink))

    def ellipse(self, centre: _Array, radii: _Array, *ink) -> None:
        self.polygon(CIRCLE * np.asarray(radii) + np.asarray(centre), *ink)

    def line(self, points: _Array, width: float, *ink) -> None:
        width_pixels = max(1, round(width * self.scale))
        self.draw.line(self.place(points), _ink(*ink), width_pixels, joint="curve")

    def arc(self, ends: _Array, bend: float, width: float, *ink) -> None:
        """Draw a line from one end to the other, its middle moved down by `bend`."""
        along = np.linspace(0, 1, 9)[:, None]
        points = np.hstack([1 - along, along]) @ np.asarray(ends)
        self.line(points + [0, 4 * bend] * along * (1 - along), width, *ink)


def _ink(colour: _Array, opacity: float = 1) -> tuple[int, ...]:
    """Return Pillow's red, green, blue, alpha of a colour (0 to 255) and an opacity (0 to 1)."""
    return tuple(int(min(max(value, 0), 255)) for value in np.append(colour, 255 * opacity))


def _ramp(value: float, start: float, end: float) -> float:
    """Return 0 up to `start`, 1 from `end` on, linear between."""
    return min(max((value - start) / (end - start), 0.0), 1.0)


class _Face:
    """One face: its hidden traits, colours and proportions (in face units), and its drawing.

    Every part draws random numbers, so the order of the calls affects the picture.
    """

    def __init__(self, age_years: int, gender: int, race: int, generator: np.random.Generator):
        self.chance, self.integers = generator.random, generator.integers
        self.normal, self.uniform = generator.normal, generator.uniform
        self.race = race
        self.age = max(0.5, age_years + self.normal(0, min(0.6 + 0.14 * age_years, 5.0)))
        gender_strength = 0.5 + 0.5 * _ramp(self.age, 2, 15)  # a baby's gender hardly shows
        self.femininity = (2 * gender - 1) * gender_strength + self.normal(0, 0.5)
        self.child = 1 - _ramp(self.age + self.normal(0, 1), 0, 19)
        self.old = _ramp(self.age + self.normal(0, 4), 28, 88)
        self.weight = self.normal(0, 0.05)
        self._choose_colours()
        self._choose_proportions()

    def cue(self) -> float:
        """Return about -1 for masculine, 1 for feminine, varied a little for each feature."""
        return float(np.clip(self.femininity + self.normal(0, 0.4), -1.8, 1.8))

    def _choose_colours(self) -> None:
        skin = np.array(SKIN_COLOURS[self.race]) * self.uniform(0.86, 1.08) + self.normal(0, 4, 3)
        self.skin = skin * (1 - 0.12 * self.old) + 0.12 * self.old * skin.mean()
        self.shade = self.skin * 0.6
        dark = self.chance() < DARK_HAIR_SHARES[self.race]
        natural = HAIR_COLOURS[0 if dark else self.integers(1, 4)]
        hair = np.array(natural) * self.uniform(0.7, 1.3)
        dyed = self.chance() < (0.25 if self.cue() > 0 else 0.04)
        grey = 0.1 if dyed else 1 / (1 + math.exp(-(self.age + self.normal(0, 6) - 50) / 6))
        self.hair = hair * (1 - grey) + (165 + 70 * self.old) * grey
        self.eye_colour = EYE_COLOURS[0 if dark else self.integers(0, 3)]

    def _choose_proportions(self) -> None:
        # A child has a large crown, a short jaw and a small nose; ears and nose keep growing.
        child, old = self.child, self.old
        self.width = 0.72 + 0.12 * child + self.weight
        crown = 0.98 + 0.06 * child
        self.chin = 0.98 - 0.24 * child + 0.05 * old - 0.03 * self.cue()
        jaw_width = 0.74 - 0.06 * self.cue() + 0.1 * child + 0.12 * old + self.weight
        jaw_shape = 0.62 + 0.08 * self.cue()
        # The outline of the head, (48, 2): half an ellipse above y = 0, a jaw below it.
        angle = np.linspace(0, 2 * math.pi, 48, endpoint=False)
        across, down, below = np.cos(angle), np.sin(angle), np.maximum(np.sin(angle), 0)
        curve = np.sign(across) * np.abs(across) ** np.where(down > 0, jaw_shape, 1.0)
        x = self.width * curve * (1 - (1 - jaw_width) * below)
        y = np.where(down > 0, self.chin * below**0.9, crown * down)
        self.outline = np.stack([x, y], 1)
        self.eye_y, self.eye_x = -0.1 + 0.2 * child, 0.32 + self.normal(0, 0.015)
        self.nose_y = self.eye_y + 0.4 - 0.16 * child + 0.07 * old + self.normal(0, 0.015)
        self.mouth_y = self.nose_y + (self.chin - self.nose_y) * self.uniform(0.38, 0.46)
        self.thin_hair = 0.75 * _ramp(child, 0.8, 1.0)

    def draw_background(self, pen: _Pen) -> None:
        child, old = self.child, self.old
        for _ in range(self.integers(2, 6)):
            thing = self.uniform(20, 235) + self.normal(0, 35, 3)
            pen.ellipse(self.uniform(-1.6, 1.6, 2), self.uniform(0.3, 1.3, 2), thing, 0.8)
        fall = 0.35 + 0.9 * self.cue() * (1 - 0.7 * child) * (1 - 0.45 * old) + self.normal(0, 0.15)
        if fall > 0.25 + 0.6 * self.thin_hair:
            spread = self.width * self.uniform(1.15, 1.4)
            back = [[-spread, -0.2], [spread, -0.2], [spread * 1.05, fall], [-spread * 1.05, fall]]
            pen.polygon(back, self.hair * 0.85)
            pen.ellipse((0, -0.2), (spread, 0.85), self.hair * 0.85)
        neck = 0.47 - 0.05 * self.cue() - 0.08 * child
        shoulders = (1.35 - 0.15 * self.cue() - 0.2 * child, 0.85)
        pen.ellipse((0, 2.0), shoulders, self.uniform(20, 235, 3))
        column = [[-neck, 0.5], [neck, 0.5], [neck * 1.1, 1.3], [-neck * 1.1, 1.3]]
        pen.polygon(column, self.skin * 0.82)
        ear = 0.17 + 0.07 * old
        earring = self.chance() < (0.45 if self.cue() > 0.3 else 0.04) * (1 - child)
        for side in (-1, 1):
            pen.ellipse((side * self.width, self.eye_y + 0.14), (0.1, ear), self.skin * 0.9)
            if earring:
                lobe = side * self.width * 1.02, self.eye_y + 0.16 + ear
                pen.ellipse(lobe, (0.05, 0.09), (235, 205, 90))

    def draw_skin(self, pen: _Pen) -> None:
        """Draw the skin and its signs of age: jowls, bags, folds, creases and crow's feet."""
        old, eye_x, eye_y, nose_y = self.old, self.eye_x, self.eye_y, self.nose_y
        pen.polygon(self.outline, self.skin)
        fold = 0.1 + 0.9 * _ramp(self.age + self.normal(0, 5), 24, 70)
        blush = 0.5 * self.child + 0.15
        for side in (-1, 1):
            pen.ellipse((side * 0.42, nose_y), (0.2, 0.14), self.skin + [26, -16, -10], blush)
            pen.ellipse((side * 0.46, self.chin * 0.72), (0.17, 0.2), self.shade, 0.32 * old)
            pen.ellipse((side * eye_x, eye_y + 0.15), (0.17, 0.07), self.shade, 0.55 * old)
            cheek = (side * 0.36, self.mouth_y + 0.05 + 0.15 * old)
            pen.arc([(side * 0.16, nose_y - 0.02), cheek], -0.03, 0.03, self.shade, fold)
        for number in range(3):
            crease = 0.9 * _ramp(self.age + self.normal(0, 5), 26 + 8 * number, 62 + 8 * number)
            y = eye_y - 0.34 - 0.13 * number
            pen.arc([(-0.36, y), (0.36, y)], self.normal(-0.03, 0.02), 0.025, self.shade, crease)
            for side in (-1, 1):
                corner = side * (eye_x + 0.19), eye_y + 0.01
                temple = side * (eye_x + 0.32), eye_y - 0.08 + 0.09 * number
                pen.arc([corner, temple], 0.01, 0.022, self.shade, crease)

    def draw_beard(self, pen: _Pen) -> None:
        if not (self.age > 16 and self.cue() < -0.35 and self.chance() < 0.6):
            return
        opacity = self.uniform(0.2, 0.9)
        lower = self.outline[self.outline[:, 1] > self.nose_y * self.uniform(0.3, 1.1)]
        if self.chance() < 0.7:
            upper = lower[::-1] * [0.62, 0] + [0, self.mouth_y - 0.13]
            pen.polygon(np.concatenate([lower * [1, 1.03], upper]), self.hair, opacity)
        if self.chance() < 0.8:
            pen.ellipse((0, self.mouth_y - 0.1), (0.25, 0.06), self.hair, opacity)

    def draw_features(self, pen: _Pen) -> None:
        child, old, eye_y, nose_y = self.child, self.old, self.eye_y, self.nose_y
        eye_width = 0.155 + 0.03 * child + 0.008 * self.cue()
        eye_height = eye_width * self.uniform(0.5, 0.6) * (1 + 0.5 * child - 0.35 * old)
        make_up = max(0.0, self.cue()) * (1 - child)
        brow_y = eye_y - 0.19 - 0.025 * self.cue() + 0.03 * old
        brow_width = max(0.02, 0.055 - 0.02 * self.cue()) * (1 - 0.4 * child)
        iris, gaze = min(0.075 + 0.03 * child, eye_height * 1.05), self.normal(0, 0.03)
        nostril = 0.09 + 0.03 * (self.race == 1) - 0.03 * child + 0.025 * old
        pen.ellipse((0, nose_y), (nostril * 1.3, 0.07 + 0.02 * old), self.skin * 0.9)
        pen.line([[0.05, eye_y + 0.05], [0.07, nose_y - 0.05]], 0.03, self.shade, 0.5)
        for side in (-1, 1):
            x = side * self.eye_x
            pen.ellipse((x, eye_y), (eye_width, eye_height), (240, 238, 234))
            pen.ellipse((x + gaze, eye_y), (iris, iris), self.eye_colour)
            pen.ellipse((x + gaze, eye_y), (iris * 0.5, iris * 0.5), (12, 10, 10))
            lid = (x - eye_width * 1.08, eye_y), (x + eye_width * 1.08, eye_y)
            pen.arc(lid, -eye_height, 0.025 + 0.022 * make_up, (40, 26, 24))
            pen.arc(lid, -eye_height - 0.05 + 0.04 * old, 0.02, self.shade, 0.4 + 0.5 * old)
            brow = (x - side * 0.17, brow_y), (x + side * 0.19, brow_y + 0.03)
            pen.arc(brow, -0.05, brow_width, self.hair * 0.8, 0.85 - 0.5 * child)
            pen.ellipse((side * nostril * 0.7, nose_y + 0.04), (0.03, 0.02), self.shade * 0.6)
        self._draw_mouth(pen, make_up)

    def _draw_mouth(self, pen: _Pen, make_up: float) -> None:
        along = np.linspace(-1, 1, 13)
        mouth_x = along * (0.24 - 0.06 * self.child + self.normal(0, 0.02))
        curve = self.mouth_y + self.normal(0.04, 0.04) * (1 - along**2)
        lips = max(0.025, 0.085 + 0.02 * self.cue() - 0.045 * self.old)
        upper = np.stack([mouth_x, curve - 0.8 * lips * (1 - np.abs(along))], 1)
        lower = np.stack([mouth_x, curve + lips * (1 - along**2)], 1)
        mouth = np.concatenate([upper, lower[::-1]])
        pen.polygon(mouth, self.skin * [0.85, 0.62, 0.6])
        pen.polygon(mouth, (190, 40, 60), 0.4 * make_up)
        pen.line(np.stack([mouth_x, curve], 1), 0.022, self.shade * 0.5)

    def draw_hair(self, pen: _Pen) -> None:
        """Draw hair between the crown and a hairline that recedes with age, mostly in men."""
        recede = _ramp(self.age + self.normal(0, 12), 25, 85) * max(0.05, 0.55 - 0.5 * self.cue())
        hairline = self.eye_y - 0.5 + 0.1 * self.normal() - 0.45 * recede - 0.1 * self.child
        x = np.linspace(self.width * 0.97, -self.width * 0.97, 21)
        temples = min(-hairline, 0.5 + 0.3 * recede)  # how much lower the hair is there
        rim = hairline + temples * np.abs(x / self.width) ** self.uniform(2, 5)
        ragged = self.normal(0, 0.02, 21)
        rim += ragged + 0.12 * (1 - recede) * np.sin(3 * (x - self.uniform(-0.5, 0.5)))
        if self.chance() > 0.35 * recede**2:
            top = np.roll(self.outline, 24, axis=0)[:25] * 1.07  # from left over the crown to right
            hair = np.concatenate([top, np.stack([x, rim], 1)])
            pen.polygon(hair, self.hair, 1 - self.thin_hair)

    def draw_glasses(self, pen: _Pen) -> None:
        eye_x, eye_y = self.eye_x, self.eye_y
        if not (self.age > 5 and self.chance() < 0.06 + 0.4 * self.old):
            return
        frame = self.uniform(0.025, 0.06), self.uniform(10, 120, 3)
        radius = self.uniform(0.2, 0.25)
        for side in (-1, 1):
            ring = np.concatenate([CIRCLE, CIRCLE[:2]]) * [radius * 1.1, radius * 0.9]
            pen.line(ring + [side * eye_x, eye_y + 0.03], *frame)
            pen.line([[side * (eye_x + radius), eye_y], [side * self.width, eye_y]], *frame)
        pen.line([[radius - eye_x, eye_y], [eye_x - radius, eye_y]], *frame)


def draw_face(
    age_years: int,
    gender: int,
    race: int,
    generator: np.random.Generator,
    image_size_pixels: int = 128,
) -> np.ndarray:
    """Draw one face: RGB uint8 (image_size_pixels, image_size_pixels, 3).

    age_years: 1 to 116. gender: 0 male, 1 female. race: 0 to 4 as in UTKFace. generator: the same
    state gives the same picture.
    """
    face = _Face(age_years, gender, race, generator)
    room = _ink(generator.uniform(20, 235) + generator.normal(0, 30, 3))[:3]
    # Draw at twice the size, since shrinking smooths the jagged edges that Pillow draws.
    image = PIL.Image.new("RGB", (2 * image_size_pixels, 2 * image_size_pixels), room)
    pen = _Pen(image, generator)
    face.draw_background(pen)
    face.draw_skin(pen)
    face.draw_beard(pen)
    face.draw_features(pen)
    face.draw_hair(pen)
    face.draw_glasses(pen)
    # Imitate a camera: light from one side, blur, tint and noise.
    image = image.reduce(2).filter(PIL.ImageFilter.GaussianBlur(generator.uniform(0.2, 1.2)))
    slope_x, slope_y = generator.normal(0, 0.16, 2)
    along = np.linspace(-1, 1, image.width)
    light = 1 + slope_x * along + slope_y * along[:, None]
    tint = generator.uniform(0.75, 1.15) * generator.normal(1, 0.03, 3)
    noise = generator.normal(0, generator.uniform(2, 9), light.shape)
    pixels = np.asarray(image) * (light[..., None] * tint) + noise[..., None]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_faces(folder: pathlib.Path, count: int, seed: int = 0) -> None:
    """Write `count` JPEG faces of 128 x 128 pixels, named like UTKFace's files.

    folder: must not exist yet. An empty marker file in it says that it shows no people.

    The same seed and Pillow version give the same bytes.
    """
    folder.mkdir(parents=True)
    (folder / utkface.GENERATED_MARKER).touch()  # first, so that half a folder has it too
    for index in range(count):
        generator = np.random.default_rng([seed, index])
        # Ages about as in UTKFace: some babies, a peak in the twenties, a tail to 100.
        if generator.random() < 0.14:
            age_years = 1 + int(9 * generator.random() ** 2.5)
        else:
            age_years = int(min(14 + generator.gamma(1.8, 13.5), 100))
        gender, race = int(generator.integers(2)), int(generator.choice(5, p=RACE_SHARES))
        face = PIL.Image.fromarray(draw_face(age_years, gender, race, generator))
        # UTKFace's stamps are from 2016 and 2017, so no name can be mistaken for a real one.
        stamp = datetime.datetime(2000, 1, 1) + datetime.timedelta(seconds=index)
        name = f"{age_years}_{gender}_{race}_{stamp:%Y%m%d%H%M%S}000.jpg.chip.jpg"
        face.save(folder / name, "JPEG", quality=int(generator.integers(65, 96)))
