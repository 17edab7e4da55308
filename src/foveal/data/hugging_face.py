"""Data sets of Hugging Face's library: of the Hub, of ``save_to_disk``, or files that ``load_dataset`` opens."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from .._errors import UserError, first_line
from ._decode import BadImage, decode_image, open_image
from ._pictures import UNLABELLED, Divisible

if TYPE_CHECKING:
    from datasets import Dataset

PREFIX = "hf:"
VAL_SPLITS = ("validation", "val", "valid", "test")  # the first of them that there is


class HuggingFace(Divisible):
    """Some rows of a table that has one column, of encoded pictures; ``labels`` are those of all its rows."""

    def __init__(self, source: str, classes: list[str], table: "Dataset", labels: list[int], rows: Sequence[int]):
        self.source, self.classes, self.table, self.labels, self.rows = source, classes, table, labels, rows
        (self.column,) = table.column_names

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, index: int) -> Image.Image:
        stored: dict[str, Any] = self.table[self.rows[index]][self.column] or {"bytes": None, "path": None}
        if stored["bytes"] is not None:
            return decode_image(stored["bytes"], self.name(index))
        if stored["path"] is not None:
            return open_image(stored["path"])
        raise BadImage(self.name(index), "no picture")

    def label(self, index: int) -> int:
        return self.labels[self.rows[index]]

    def name(self, index: int) -> str:
        return f"row {self.rows[index]} of {self.source}"

    def subset(self, indices: list[int]) -> "HuggingFace":
        return HuggingFace(self.source, self.classes, self.table, self.labels, [self.rows[i] for i in indices])


def hugging_face(name: str) -> tuple[HuggingFace | None, HuggingFace | None]:
    """Training and validation pictures of ``hf:NAME`` or ``hf:PATH``; None for a split that it does not have.

    Raises:
        UserError: ``datasets`` is missing or cannot open the data; not one column of pictures and one of classes.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f"{name} needs Hugging Face's datasets: pip install foveal[datasets]") from None
    source = name.removeprefix(PREFIX)
    path = Path(source)
    try:
        if path.suffix == ".parquet":
            found = datasets.load_dataset("parquet", data_files=source)
        elif (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            found = datasets.load_from_disk(source)
        else:
            found = datasets.load_dataset(source)
    except Exception as error:  # each of its readers has its own
        raise UserError(f"cannot open {name}: {first_line(error)}") from None
    splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}
    chosen = ["train", next((split for split in VAL_SPLITS if split in splits), "val")]
    train, val = (_pictures(f"{name} ({split})", splits[split]) if split in splits else None for split in chosen)
    if train is None and val is None:
        had = ", ".join(map(str, splits))
        raise UserError(f"{name} has the splits {had}; expected train or {', '.join(VAL_SPLITS)}")
    return train, val


def _pictures(name: str, table: "Dataset") -> HuggingFace:
    import datasets

    column, label = _column(name, table, datasets.Image), _column(name, table, datasets.ClassLabel)
    classes = list(table.features[label].names)
    labels = [UNLABELLED if value is None else value for value in table[label][:]]
    table = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return HuggingFace(name, classes, table, labels, range(len(labels)))


def _column(name: str, table: "Dataset", kind: type) -> str:
    """The one column of a kind; raises UserError."""
    found = [column for column, feature in table.features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        columns = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in table.features.items())
        raise UserError(
            f"{name} has {len(found)} columns of type {kind.__name__}; a copy by save_to_disk must have one: {columns}"
        )
    return found[0]
