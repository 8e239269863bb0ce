"""What is searched: the one table of ranges and defaults, for A and for B.

A space is a function of Keras Tuner's HyperParameters that returns plain builder and training
arguments. The defaults are good settings on their own and always trial 1. `tier` says how many
parameters a search has the time for: "short" tries the few that matter most and leaves the others
at their defaults, "quick" does the same on smaller pictures, "full" tries all; "notebook" searches
nothing and stands for the networks and settings of the student notebook. Names are the arguments'
own.
"""

import keras_tuner

TIERS = ("quick", "short", "full", "notebook")
# From so many epochs on, A over-fits with the weak augmentation that pays in a few.
LONG_EPOCHS = 40
# What the released A was trained with.
MIXING = 0.3


def _choose(hp: keras_tuner.HyperParameters, tier: str):
    """Return functions that declare a parameter, or fix it where the tier leaves it out."""

    def choice(name, values, default, *, short=False):
        if tier == "full" or short:
            return hp.Choice(name, values, default=default, ordered=not isinstance(default, str))
        return hp.Fixed(name, default)

    def real(name, low, high, default, *, short=False, sampling="linear"):
        if tier == "full" or short:
            return hp.Float(name, low, high, default=default, sampling=sampling)
        return hp.Fixed(name, default)

    return choice, real


def scratch(hp: keras_tuner.HyperParameters, tier: str) -> dict:
    """Return the arguments of network A: {"build": ..., "fit": ..., "augmentation": ...}.

    The full space's defaults are the released A's, which pay in 50 epochs and more; the short
    tier's are what gets furthest in the few that 20 minutes have.
    """
    choice, real = _choose(hp, tier)
    full = tier == "full"
    build = {
        "internal_size_pixels": choice(
            "internal_size_pixels", [64, 96, 128], {"quick": 64, "full": 128}.get(tier, 96)
        ),
        "stem_filters": choice("stem_filters", [16, 24, 32], 24),
        "stem_kernel_pixels": choice("stem_kernel_pixels", [3, 5], 3),
        "width": choice("width", [16, 24, 32, 48], 32, short=True),
        "stages": choice("stages", [3, 4, 5], 4),
        "blocks_per_stage": choice("blocks_per_stage", [1, 2], 1),
        "extra_block_stage": choice("extra_block_stage", [-1, 1, 2, 3], 2),
        "kernel_pixels": choice("kernel_pixels", [3, 5], 3),
        "residual": hp.Boolean("residual", True) if full else hp.Fixed("residual", True),
        "normalization": choice("normalization", ["batch", "group", "none"], "batch"),
        "activation": choice("activation", ["relu", "swish", "gelu"], "swish" if full else "relu"),
        "pooling": choice("pooling", ["average", "maximum", "flatten"], "average"),
        "trunk_dropout": real("trunk_dropout", 0.0, 0.5, 0.4 if full else 0.2, short=True),
        "age_dropout": real("age_dropout", 0.0, 0.6, 0.3),
        "gender_dropout": real("gender_dropout", 0.0, 0.6, 0.4),
        "age_units": choice("age_units", [64, 128, 256], 128),
        "gender_units": choice("gender_units", [32, 64, 128], 64),
    }
    fit, build["age_head"] = _age_arguments(hp, tier)
    fit |= {
        "gender_weight": real("gender_weight", 0.3, 5.0, 1.2, short=True, sampling="log"),
        "optimizer": choice("optimizer", ["adamw", "adam", "sgd"], "adamw"),
        "learning_rate": real("learning_rate", 5e-4, 8e-3, 2e-3, short=True, sampling="log"),
        "schedule": choice("schedule", ["cosine", "constant"], "cosine"),
        "warmup": real("warmup", 0.0, 0.2, 0.05),
        "weight_decay": real("weight_decay", 5e-3, 2e-1, 5e-2, sampling="log"),
        "batch_size": choice("batch_size", [32, 64, 128], 64),
    }
    # One strength short of time, every one of its own in the full space.
    strength = 1.0 if full else real("augmentation_strength", 0.1, 1.5, 0.25, short=True)
    augmentation = {
        "rotation": strength * real("rotation", 0.0, 0.1, 0.04),
        "zoom": strength * real("zoom", 0.0, 0.25, 0.12),
        "shift": strength * real("shift", 0.0, 0.15, 0.08),
        "brightness": strength * real("brightness", 0.0, 0.3, 0.2),
        "contrast": strength * real("contrast", 0.0, 0.5, 0.3),
        "erasing": strength * real("erasing", 0.0, 0.5, 0.0),
        "mixing": real("mixing", 0.0, 0.5, MIXING if full else 0.0),
    }
    return {"build": build, "fit": fit, "augmentation": augmentation}


def pretrained(hp: keras_tuner.HyperParameters, tier: str, backbones: list[str]) -> dict:
    """Return network B's arguments: {"backbone": ..., "build": ..., "fit": ..., "augmentation"}.

    backbones: those at hand, the preferred one first. Where `views` is "cached", fine-tuning sees
    the views whose activations were computed once; "fresh" draws new ones from the pixels.
    """
    choice, real = _choose(hp, tier)
    name = choice("backbone", backbones, backbones[0])
    backbone = {
        "name": name,
        "internal_size_pixels": choice(
            "internal_size_pixels", [128, 160, 192], 128 if tier == "quick" else 160
        ),
    }
    build = {
        "trunk_dropout": real("trunk_dropout", 0.0, 0.5, 0.2),
        "age_dropout": real("age_dropout", 0.0, 0.6, 0.3, short=True),
        "gender_dropout": real("gender_dropout", 0.0, 0.6, 0.4, short=True),
        "age_units": choice("age_units", [128, 256, 512], 256),
        "gender_units": choice("gender_units", [64, 128, 256], 128),
    }
    fit, build["age_head"] = _age_arguments(hp, tier)
    fit |= {
        "gender_weight": real("gender_weight", 0.3, 5.0, 1.5, short=True, sampling="log"),
        "head_learning_rate": real("head_learning_rate", 3e-4, 3e-3, 1e-3, sampling="log"),
        "head_weight_decay": real("head_weight_decay", 1e-3, 2e-1, 5e-2, sampling="log"),
        "learning_rate": real("learning_rate", 3e-5, 1e-3, 2e-4, short=True, sampling="log"),
        "weight_decay": real("weight_decay", 1e-3, 1e-1, 1e-2, sampling="log"),
        "warmup": real("warmup", 0.0, 0.3, 0.1),
        "schedule": choice("schedule", ["cosine", "constant"], "cosine"),
        "batch_normalization": choice("batch_normalization", ["inference", "update"], "inference"),
        "batch_size": choice("batch_size", [32, 64, 128], 64),
    }
    # How deep to unfreeze, as a share of the places where the backbone may be cut.
    backbone["unfrozen_share"] = choice("unfrozen_share", [0.0, 0.25, 0.5, 0.75], 0.75, short=True)
    augmentation = None
    if choice("views", ["cached", "fresh"], "cached") == "fresh":
        augmentation = {
            "rotation": real("rotation", 0.0, 0.1, 0.03),
            "zoom": real("zoom", 0.0, 0.25, 0.08),
            "shift": real("shift", 0.0, 0.15, 0.06),
            "brightness": real("brightness", 0.0, 0.3, 0.15),
            "contrast": real("contrast", 0.0, 0.5, 0.2),
            "erasing": real("erasing", 0.0, 0.5, 0.0),
        }
    return {"backbone": backbone, "build": build, "fit": fit, "augmentation": augmentation}


def space(family: str, hp: keras_tuner.HyperParameters, tier: str, at_hand: list[str]) -> dict:
    """Declare family "A" or "B" on hp; return its arguments. ValueError for an unknown tier."""
    if tier not in TIERS:
        raise ValueError(f"The tier must be one of {', '.join(TIERS)}; got {tier!r}.")
    if tier == "notebook":
        return notebook(family, hp, at_hand)
    return scratch(hp, tier) if family == "A" else pretrained(hp, tier, at_hand)


def notebook(family: str, hp: keras_tuner.HyperParameters, at_hand: list[str]) -> dict:
    """Return what the notebook trained with: unweighted squared error and cross-entropy, Adam.

    B takes VGG16 where its weights are at hand, else the first backbone there is.
    """
    fit = {
        "optimizer": "adam",
        "schedule": "constant",
        "warmup": 0.0,
        "batch_size": 32,
        "age_loss": "mse",
        "age_weight": 400.0,  # which undoes the loss's unit of 20 years
        "gender_weight": 1.0,
    }
    hp.Fixed("architecture", "notebook")
    if family == "A":
        fit["learning_rate"] = 1e-3
        views = dict.fromkeys(("zoom", "brightness", "contrast"), 0.0)
        return {"fit": fit, "augmentation": views | {"rotation": 20 / 360, "shift": 0.1}}
    name = hp.Fixed("backbone", "vgg16" if "vgg16" in at_hand else at_hand[0])
    backbone = {"name": name, "internal_size_pixels": 128, "unfrozen_share": 0.0}
    fit |= {"head_learning_rate": 1e-4, "head_weight_decay": 0.0}
    return {"backbone": backbone, "fit": fit, "augmentation": None}


def for_epochs(values: dict, epochs: int) -> dict:
    """Return a search's values for a training of so many epochs.

    The short tier's trials of A are too short to show what strong augmentation and mixing are worth
    in LONG_EPOCHS, so they are not asked: there, both are what the full space begins with.
    """
    if epochs >= LONG_EPOCHS and "augmentation_strength" in values:
        strength = max(1.0, values["augmentation_strength"])
        return values | {"augmentation_strength": strength, "mixing": MIXING}
    return values


def searched(family: str, tier: str, at_hand: list[str]) -> tuple[list[str], dict]:
    """Return the names that are searched at first, and what is the same in every trial."""
    hp = keras_tuner.HyperParameters()
    space(family, hp, tier, at_hand)
    fixed = keras_tuner.engine.hyperparameters.Fixed
    constants = {p.name: hp.values[p.name] for p in hp.space if isinstance(p, fixed)}
    return [name for name in hp.values if name not in constants], constants


def defaults(family: str, at_hand: list[str]) -> dict:
    """Return the values of the full space's defaults."""
    hp = keras_tuner.HyperParameters()
    space(family, hp, "full", at_hand)
    return dict(hp.values)


def arguments(family: str, values: dict, tier: str, at_hand: list[str]) -> dict:
    """Return the arguments that a trial's values stand for."""
    hp = keras_tuner.HyperParameters()
    hp.values = dict(values)
    return space(family, hp, tier, at_hand)


def _age_arguments(hp: keras_tuner.HyperParameters, tier: str) -> tuple[dict, str]:
    """Declare how the age is predicted; what does not apply to the chosen head is not active."""
    choice, real = _choose(hp, tier)
    age_head = choice("age_head", ["distribution", "ordinal", "regression"], "distribution")
    fit = {
        "age_loss": choice("age_loss", ["mae", "huber", "mse"], "mae"),
        "age_weight": real("age_weight", 0.3, 5.0, 1.0, sampling="log"),
    }
    with hp.conditional_scope("age_head", ["distribution"]):
        if age_head == "distribution":
            fit["age_deviation_years"] = real("age_deviation_years", 1.0, 5.0, 2.5)
    return fit, age_head
