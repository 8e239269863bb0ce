"""Settings and named presets. A preset lists only its changes. Standard library only."""

import dataclasses

LEAST_GAIN_FACES = 500


@dataclasses.dataclass(frozen=True)
class FamilySettings:
    """Limits on the work of one family's search and final training run.

    trials: maximum number.
    rungs: epochs per trial on 3,500 faces (fewer epochs on more faces), in ascending order. The
        best 1/factor of the trials of each rung advance to the next. B's rung of 0 epochs trains
        the head alone. Searches without rungs use the last number.
    later_rungs: more of them, used after `oracle.SHORT_TRIALS` settings on the first.
    final_epochs: maximum number in a final training run.
    search_share, final_share: shares of the time that MINUTES leaves.
    finalists: number of settings trained again, each on `folds` folds of training and validation;
        fewer if there is no time to train all for final_epochs.
    fewest_trials: minimum number, run even if the search's share of the time is used up.
    """

    trials: int
    rungs: tuple[int, ...]
    final_epochs: int
    search_share: float
    final_share: float
    later_rungs: tuple[int, ...] = ()
    factor: int = 3
    finalists: int = 1
    folds: int = 1
    fewest_trials: int = 1


@dataclasses.dataclass(frozen=True)
class Gate:
    """Conditions on the locked test that a challenger must meet to become champion.

    most_loss_years, most_loss_accuracy: largest loss allowed in the task it does not improve.
    slice_loss_years, slice_loss_accuracy: a significantly larger loss in any slice blocks it.
    significance: level of each comparison. slice_images: smaller slices are not judged.
    """

    most_loss_years: float = 0.1
    most_loss_accuracy: float = 0.005
    slice_loss_years: float = 0.5
    slice_loss_accuracy: float = 0.03
    significance: float = 0.05
    slice_images: int = 100


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of `make tune`; `pipelines/options.py` lists those that a user can override."""

    seed: int = 0
    minutes: float | None = 15.0
    algorithm: str = "priorband"
    tier: str = "short"
    preset: str = "laptop"
    generated_faces: int = 1200
    # A single final run takes the defaults unless a setting's val_score is lower by this share, or
    # more if there are fewer than LEAST_GAIN_FACES validation faces. On as many, two trials of one
    # setting of A differ by 4 % (one standard deviation).
    least_gain: float = 0.08
    # More epochs in the final training run gain more than the best setting of a search does.
    # Ranks after three epochs say little about those after thirty. So the best go on to longer
    # trials, once enough settings have been tried.
    scratch: FamilySettings = FamilySettings(
        120,
        (3,),
        120,
        search_share=0.22,
        final_share=0.45,
        later_rungs=(9, 27),
        factor=5,
        finalists=2,
    )
    # Training a head takes seconds. Fine-tuning pays off in the final run, not in 2 epochs.
    pretrained: FamilySettings = FamilySettings(
        120, (0, 2), 8, search_share=0.19, final_share=0.14, factor=20, finalists=2
    )
    # Views of each face that pass once through B's frozen part; fewer if there are many faces.
    views: int = 4
    most_views: int = 20_000
    head_epochs: int = 14
    # Where B's backbone is cut for the activations that all trials share. While views are cached,
    # nothing below the cut is trained.
    cut_share: float = 0.25
    # Limit for all cached activations. One set takes 0.2 to 5 GB; a full search on all of UTKFace
    # takes 6.3 GB (the committed backbone, three sizes).
    features_gigabytes: float = 20.0
    # Start a search with the store's best settings from earlier searches on the same faces.
    memory: bool = True
    # Exported networks average over the mirror image, which doubles the time of a prediction.
    mirror_images: bool = False
    # Number of test faces shown to the candidates blurred, dark, covered and so on.
    robustness_faces: int = 200
    # Number of trials that run in parallel, each in its own process.
    workers: int = 1
    # CPUs and GPUs of a Ray cluster per trial; fractions are allowed.
    trial_cpus: float = 1.0
    trial_gpus: float = 0.0
    # A trial that completes no epoch in this time is stopped and counted as failed.
    silent_minutes: float = 30.0
    # Time reserved at the end for the test, the registry and the exports.
    closing_seconds: float = 90.0


def _with(**changes) -> Settings:
    return dataclasses.replace(Settings(), **changes)


@dataclasses.dataclass(frozen=True)
class Release:
    """How a model in models/ is trained: the full space's defaults plus `changes`, no search.

    calibration_epochs: of a run without the validation faces, which are then used to fit intervals.
    head_epochs: of B's head alone, before the other epochs.
    """

    family: str
    epochs: int
    calibration_epochs: int
    changes: dict = dataclasses.field(default_factory=dict)
    views: int = 4
    head_epochs: int = 20
    seed: int = 0


# Changes for B's releases: the values in use when they were made.
OF_HEAD = {"head_learning_rate": 1e-3, "head_batch_size": 64}
# Those with _full in their name train on all of UTKFace, the others on the 5,000, none on a
# committed test face.
RELEASES = {
    "A": Release("A", 60, 30, {"first_size_pixels": 0}),
    "A_taught": Release("A", 200, 50, {"teacher": "faceres_deep"}),
    "B": Release("B", 8, 4, OF_HEAD),
    "A_full": Release("A", 36, 16, {"mixing": 0.1, "first_size_pixels": 0}),
    "A_full_taught": Release("A", 96, 16, {"mixing": 0.1, "teacher": "faceres_deep"}),
    "B_full": Release("B", 5, 1, {"learning_rate": 2e-4} | OF_HEAD, views=2),
}

# Choices behind the defaults of A and B; `make ablate` undoes them one at a time.
ABLATIONS: dict[str, dict[str, dict]] = {
    "A": {
        "age as one number": {"age_head": "regression"},
        "no augmentation": dict.fromkeys(
            ("rotation", "zoom", "shift", "brightness", "contrast", "mixing"), 0.0
        ),
        "no normalization": {"normalization": "none"},
        "faces not mixed": {"mixing": 0.0},
        "no small pictures first": {"first_size_pixels": 0},
    },
    "B": {
        "age as one number": {"age_head": "regression"},
        "backbone stays frozen": {"unfrozen_share": 0.0},
        "128 pixels inside": {"internal_size_pixels": 128},
    },
}

PRESETS = {
    "laptop": Settings(),
    # Drawn faces, to see the whole pipeline work in six minutes on two cores. The best setting
    # after two epochs of fine-tuning is not the best after four.
    "drawn": _with(
        preset="drawn",
        minutes=5.5,
        tier="quick",
        scratch=FamilySettings(80, (4,), 30, 0.30, 0.25, fewest_trials=6),
        pretrained=FamilySettings(80, (0, 4), 4, 0.34, 0.11, factor=20, fewest_trials=6),
        views=2,
        head_epochs=10,
        robustness_faces=40,
        closing_seconds=35.0,
    ),
    "smoke": _with(
        preset="smoke",
        minutes=None,
        generated_faces=500,
        scratch=FamilySettings(2, (2,), 3, search_share=0.2, final_share=0.3),
        pretrained=FamilySettings(2, (1,), 2, search_share=0.2, final_share=0.2),
        views=2,
        head_epochs=5,
        robustness_faces=30,
    ),
    "thorough": _with(
        preset="thorough",
        minutes=None,
        tier="full",
        scratch=FamilySettings(
            200, (3, 9, 27), 80, search_share=0.3, final_share=0.3, finalists=3, folds=3
        ),
        pretrained=FamilySettings(
            300, (0, 2, 6), 24, search_share=0.2, final_share=0.2, finalists=3, folds=3
        ),
    ),
    # The student notebook's own networks and settings on the same faces, without a search.
    "notebook": _with(
        preset="notebook",
        minutes=None,
        tier="notebook",
        scratch=FamilySettings(1, (1,), 40, search_share=0.1, final_share=0.5),
        pretrained=FamilySettings(1, (1,), 1, search_share=0.1, final_share=0.3),
        head_epochs=66,
    ),
}


def preset_for(data: object | None) -> str:
    """Return the preset's name for real faces (`data` is their location) or drawn ones (None)."""
    return "laptop" if data else "drawn"
