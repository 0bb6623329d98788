"""A random-access source for Grain, importable by its worker processes: the pixels of pictures, file by file."""

from pathlib import Path

from PIL import Image


class Pictures:
    """All pictures below a folder; each as its class and the bytes of its pixels, in one text."""

    def __init__(self, root: str) -> None:
        self._paths = sorted(Path(root).glob("*/*.png"))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> str:
        path = self._paths[index]
        with Image.open(path) as picture:
            return f"{path.parent.name} {picture.tobytes()[:3].hex()}"
