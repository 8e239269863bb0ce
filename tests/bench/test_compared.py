"""The comparison of real searches: on which faces it judges, and what its table says."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from agegender.data import pixels
from tests.bench import compared


def test_searches_are_judged_on_validation_faces_that_none_of_them_saw(labelled_faces):
    manifest, pictures = labelled_faces
    split = np.where(np.arange(120) % 3 == 1, "validation", manifest["split"])
    others = pixels.Faces("", manifest.assign(split=split), pictures, "", "utkface", {})
    # Row 1 is no known file, but a copy of the known row 0.
    known = dataclasses.replace(others, manifest=manifest.iloc[[0, 4]])
    assert compared.unknown_rows(others, known).tolist() == list(range(7, 120, 3))


def test_the_table_compares_each_search_with_priorband_face_by_face():
    def run(search, seed, years):
        counts = {"settings": 5, "epochs": 3, "minutes": 20.0}
        errors = {"years": [years, years + 2], "right": [True, False], "floors": [10.0, 0.5]}
        return {"family": "A", "search": search, "seed": seed} | counts | errors

    found = [run("priorband", 0, 4.0), run("tpe", 0, 5.0)]
    found += [run("priorband", 1, 4.0), run("tpe", 1, 3.0), run("tpe", 2, 9.0)]
    table = compared.table(pd.DataFrame(found)).set_index("search")
    assert table.loc["priorband", ["years", "right", "val_score"]].tolist() == [5.0, 0.5, 0.75]
    assert table.loc["tpe", "worse"] == pytest.approx(0.0), "seed 2 has nothing to compare with"
    assert table.loc["tpe", "seeds_worse"] == "1 of 2"
