"""How ImageNet's images of any size become batches of one size, as the sources did it.

| name | training | test |
|---|---|---|
| "s5" | RandomResizedCrop 224, ColorJitter .4, flip | shorter side 256, centre 224 |
| "s4" | resize to 256x256, random crop 227, flip | resize to 256x256, centre 227 |

A view takes a PIL image and gives uint8 (3, size, size); the normalisation comes later, batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable

# S4 subtracts the mean from pixels on the 0..255 scale and divides by nothing: Normalize(mean, S4_STD).
S4_STD = (1 / 255, 1 / 255, 1 / 255)


def view(name: str, *, train: bool) -> Callable:
    """The training or test view called `name`, for `LazySplit.view` or `Batches(augment=...)`."""
    from torchvision.transforms import v2  # takes a second to import

    table = {
        ("s5", True): lambda: [
            v2.RandomResizedCrop(224, antialias=True),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            v2.RandomHorizontalFlip(),
        ],
        ("s5", False): lambda: [v2.Resize(256, antialias=True), v2.CenterCrop(224)],
        ("s4", True): lambda: [
            v2.Resize((256, 256), antialias=True),
            v2.RandomCrop(227),
            v2.RandomHorizontalFlip(),
        ],
        ("s4", False): lambda: [v2.Resize((256, 256), antialias=True), v2.CenterCrop(227)],
    }
    if (name, train) not in table:
        raise ValueError(f"no view {name!r}: choose 's4' or 's5'")
    return v2.Compose([*table[name, train](), v2.PILToTensor()])
