"""Settings and named presets; a preset is a short diff of the default. Standard library only."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class FamilySettings:
    """How much work one family's search and last training may be.

    trials: at most so many.
    rungs: epochs of a trial on 3,500 faces (on more, fewer), from the shortest to the longest; the
        best 1/factor of the trials of a rung are tried on the next one. On B's rung of 0 epochs its
        head alone is trained. Searches without rungs take the last number.
    final_epochs: at most so many in a last training.
    search_share, final_share: of the time that MINUTES leaves.
    finalists: settings trained again, each on `folds` folds of training and validation.
    fewest_trials: so many are tried even where the search's share of the time is used up.
    """

    trials: int
    rungs: tuple[int, ...]
    final_epochs: int
    search_share: float
    final_share: float
    factor: int = 3
    finalists: int = 1
    folds: int = 2
    fewest_trials: int = 1


@dataclasses.dataclass(frozen=True)
class Gate:
    """What a challenger must show on the locked test to become champion.

    most_loss_years, most_loss_accuracy: what it may lose in the task in which it is not better;
    slice_loss_years, slice_loss_accuracy: a slice holds it back where it is shown to lose more.
    significance: of each comparison; slice_images: smaller slices are not judged.
    """

    most_loss_years: float = 0.1
    most_loss_accuracy: float = 0.005
    slice_loss_years: float = 0.5
    slice_loss_accuracy: float = 0.03
    significance: float = 0.05
    slice_images: int = 100


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `make tune` does; every field can be overridden from the command line or make."""

    seed: int = 0
    minutes: float | None = 15.0
    algorithm: str = "priorband"
    tier: str = "short"
    preset: str = "laptop"
    generated_faces: int = 1200
    # Epochs of A's last training are worth more than more settings of B, which hardly differ.
    scratch: FamilySettings = FamilySettings(120, (1, 3), 60, search_share=0.2, final_share=0.47)
    # A head is trained in seconds, and in so few epochs fine-tuning hardly ever beats it.
    pretrained: FamilySettings = FamilySettings(
        120, (0, 2), 8, search_share=0.24, final_share=0.09, factor=10
    )
    # The frozen part of B is run once for so many views of each face: fewer where there are many.
    views: int = 4
    most_views: int = 20_000
    head_epochs: int = 14
    # Where B's backbone is cut for the activations that all trials share: nothing below is trained
    # while views are cached.
    cut_share: float = 0.25
    # All activations that are kept: a set is 0.2 to 5 GB, those of a full search on all of UTKFace
    # 12.5 GB (both committed backbones, three sizes).
    features_gigabytes: float = 20.0
    # A search begins with the best settings that the store has of earlier ones on the same faces.
    memory: bool = True
    # Average over the mirror image inside the exported networks: twice the time to predict.
    mirror_images: bool = False
    # So many test faces are shown to the candidates blurred, dark, covered and so on.
    robustness_faces: int = 200
    # So many settings are tried side by side, each in a process of its own.
    workers: int = 1
    # What each takes of a Ray cluster, parts of one too.
    trial_cpus: float = 1.0
    trial_gpus: float = 0.0
    # A trial of which no epoch ends in so long is ended, and counted as failed.
    silent_minutes: float = 30.0
    # Held back at the end for the test, the registry and the exports.
    closing_seconds: float = 90.0


def _with(**changes) -> Settings:
    return dataclasses.replace(Settings(), **changes)


@dataclasses.dataclass(frozen=True)
class Release:
    """How a model in models/ is trained: the full space's defaults with `changes`, nothing chosen.

    calibration_epochs: of a training without the validation faces, on which intervals are fitted.
    head_epochs: of B's head alone, before the others.
    """

    family: str
    epochs: int
    calibration_epochs: int
    changes: dict = dataclasses.field(default_factory=dict)
    views: int = 4
    head_epochs: int = 20
    seed: int = 0


# What B's releases change, all as it was when they were made.
OF_HEAD = {"head_learning_rate": 1e-3, "head_batch_size": 64}
OF_FACERES = {"backbone": "faceres_mobilenet", "learning_rate": 2e-4} | OF_HEAD
# A and B on the 5,000, the others on all of UTKFace; never on a face of the committed test list.
RELEASES = {
    "A": Release("A", 60, 30),
    "A_taught": Release("A", 60, 20, {"teacher": "faceres_deep"}),
    "B": Release("B", 8, 4, OF_HEAD),
    "A_full": Release("A", 36, 6, {"mixing": 0.1}),
    "B_full": Release("B", 4, 1, OF_FACERES, views=2),
}

# Choices behind the defaults of A and B, undone one at a time by `make ablate`.
ABLATIONS: dict[str, dict[str, dict]] = {
    "A": {
        "age as one number": {"age_head": "regression"},
        "no augmentation": dict.fromkeys(
            ("rotation", "zoom", "shift", "brightness", "contrast", "mixing"), 0.0
        ),
        "no normalization": {"normalization": "none"},
        "faces not mixed": {"mixing": 0.0},
    },
    "B": {
        "backbone stays frozen": {"unfrozen_share": 0.0},
        "FaceRes instead of FaceRes-deep": {"backbone": "faceres_mobilenet"},
        "128 pixels inside": {"internal_size_pixels": 128},
    },
}

PRESETS = {
    "laptop": Settings(),
    # Drawn faces, to see the whole way work in five minutes on two cores. With one epoch
    # fine-tuning never beats the head.
    "drawn": _with(
        preset="drawn",
        minutes=4.75,
        tier="quick",
        scratch=FamilySettings(80, (1, 4), 30, 0.3, 0.2, folds=1, fewest_trials=6),
        pretrained=FamilySettings(80, (0, 2), 4, 0.4, 0.1, factor=10, folds=1, fewest_trials=6),
        views=2,
        head_epochs=10,
        robustness_faces=40,
        closing_seconds=50.0,
    ),
    "smoke": _with(
        preset="smoke",
        minutes=None,
        generated_faces=500,
        scratch=FamilySettings(2, (2,), 3, search_share=0.2, final_share=0.3, folds=1),
        pretrained=FamilySettings(2, (1,), 2, search_share=0.2, final_share=0.2, folds=1),
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
    # The student notebook's own networks and settings, on the same faces: nothing is searched.
    "notebook": _with(
        preset="notebook",
        minutes=None,
        tier="notebook",
        scratch=FamilySettings(1, (1,), 40, search_share=0.1, final_share=0.5, folds=1),
        pretrained=FamilySettings(1, (1,), 1, search_share=0.1, final_share=0.3, folds=1),
        head_epochs=66,
    ),
}


def preset_for(data: object | None) -> str:
    """Return the name of the preset for real faces (`data` says where) or for drawn ones (None)."""
    return "laptop" if data else "drawn"
