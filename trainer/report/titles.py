"""Title and note of every chart of the report."""

from collections.abc import Mapping

from trainer.report import metric_charts

TITLES: Mapping[str, tuple[str, str]] = {  # title and note of a chart, by its name
    "held-out": (
        "Held-out loss (validation)",
        "On the real documents of the validation part, never trained on; the band is the 95 % interval.",
    ),
    "shares": ("Shares", "Areas: the target. Dotted: what was actually drawn."),
    "epochs": ("Epochs", "How often each source has been drawn in full."),
    "source_value": (
        "Source value",
        "Held-out improvement per token of the source now, in fresh real tokens, ± one standard error.",
    ),
    "value": (
        "Value of the sources",
        "Value of a token of a source less that of the others, ± one standard error: off the zero line by more than"
        " that, it is better or worse; open marks, what each estimator measured alone.",
    ),
    "significance": (
        "Evidence on the sources",
        "By how many standard errors a source stands out from the others: above the dashed line its share moves.",
    ),
    "price": (
        "Price of a real token",
        "By how much the value of a real token has to exceed that of a synthetic one for it to be drawn beyond the"
        " plan, and by how much it does now (dotted); 0 where the budget sets no limit, beyond the top where no source"
        " reaches it.",
    ),
    "budget": (
        "Real data: planned and used",
        "Above, epochs used against all that are planned; below, the real share is the lesser of the share by value and"
        " the share that the budget allows.",
    ),
    "harm": (
        "The guard's evidence of harm",
        "Grows while held-out loss is higher than it should be: where the thick line crosses the dotted one the guard"
        " warns, at the dashed one it acts, and the evidence starts again.",
    ),
    "slice-harm": (
        "The guard's evidence by slice",
        "Grows while a slice of the real documents gets worse; at the dashed line the loss of one alone has risen,"
        " several together sooner.",
    ),
    "slices": ("Slices (validation)", "Held-out loss of each slice of the real documents (of many, the twelve worst)."),
    "source-loss": ("Loss on the sources", "On a fixed sample of each training source."),
    "funnel": ("Rounds of synthesis", "What became of the texts that were requested in each generation."),
    "diversity": (
        "Diversity",
        "As the gate measured it, next to as much real text (dotted): different word 3-grams, BLEU of a row against the"
        " others, and the part of the occurrences of rare real words that it has.",
    ),
    "calibration": (
        "Graders' calibration",
        "On labeled rows of the newest generation: real ones, and ones with planted faults. On the dotted line belief"
        " is right.",
    ),
    "train": ("Training loss", "Of the batches as they were drawn: it moves with the mixture as well."),
}


def title(chart: str) -> tuple[str, str]:
    """Title and note of a chart."""
    return TITLES[chart] if chart in TITLES else metric_charts.title(chart)
