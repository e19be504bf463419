"""Small datasets of a benchmark: tables, and videos that are empty files."""

import csv

import pytest

from spa.errors import UserError


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def refused(message, read, *arguments, **keywords):
    with pytest.raises(UserError, match=message) as caught:
        read(*arguments, **keywords)
    assert "\n" not in str(caught.value)
