"""How many planted near copies `graft audit` finds: python scripts/near_copies.py DATA… [KEY=VALUE…]

Of the training images of each DATA (a folder or a CSV file), 40 are copied into the validation part four times each:
cropped to 90 % of the area, mirrored, encoded as JPEG of quality 50, and made darker or brighter. Printed are the
copies that were found, and pairs that are none. Test images are not looked at.
"""

from __future__ import annotations

import io
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from graft.audit.looks import look_at, small_picture
from graft.audit.near import find_near
from graft.config.presets import composed
from graft.data.datasets import load_table

COPIES = 40


def variants(image: Image.Image, rng: random.Random) -> dict[str, Image.Image]:
    width, height = (round(side * 0.9**0.5) for side in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return {
        "crop": image.crop((left, top, left + width, top + height)),
        "mirror": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "jpeg": Image.open(file),
        "brightness": ImageEnhance.Brightness(image).enhance(rng.choice([0.8, 1.25])),
    }


def main(words: list[str]) -> None:
    keys = [word for word in words if "=" in word]
    for place in (word for word in words if "=" not in word):
        table, rng = load_table(composed([f"data.root={place}", *keys]).data), random.Random(0)
        small = list(look_at([*table.train, *table.val], 3).small_NSS)
        part = [0] * len(table.train) + [1] * len(table.val)
        origins: dict[int, tuple[int, str]] = {}
        for number in rng.sample(range(len(table.train)), COPIES):
            image = Image.open(table.train[number].path).convert("RGB")
            for kind, copy in variants(image, rng).items():
                origins[len(small)] = number, kind
                small.append(small_picture(np.asarray(copy.convert("RGB"))))
                part.append(1)
        pairs = find_near(np.stack(small), part, [str(number) for number in range(len(small))]).pairs
        right = [
            origins[pair.other][1] for pair in pairs if pair.other in origins and origins[pair.other][0] == pair.one
        ]
        name = Path(place).parent.name if Path(place).is_file() else Path(place).name
        print(f"{name}: found {dict(Counter(right))} of {COPIES} each; {len(pairs) - len(right)} other pairs")


if __name__ == "__main__":
    main(sys.argv[1:])
