"""Measured numbers as the words and tables of scripts/guides_card.py."""

import numpy as np
import pandas as pd

AIM = 0.95


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def spread(values) -> str:
    values = np.asarray(values, dtype=float)
    return f"{values.mean():.2f} +- {values.std():.2f}"


def table_of(frame: pd.DataFrame, **options) -> str:
    return frame.to_markdown(index=False, disable_numparse=True, **options)


def formatted(frame: pd.DataFrame, formats: dict[str, str] | None = None, digits: int = 1) -> str:
    """Shares in percent, counts as they are."""
    out = frame.astype(object)
    for name in frame:
        if name in (formats or {}):
            out[name] = ["-" if pd.isna(v) else formats[name].format(v) for v in frame[name]]
        elif pd.api.types.is_float_dtype(frame[name]):
            out[name] = [percent(v, digits) for v in frame[name]]
    return table_of(out)


def hard_reason(hard: pd.DataFrame, seen: pd.DataFrame) -> str:
    """What the hard pairs say: the attributes by how well they are told, beside how many pixels they move."""
    ordered = hard.sort_values("the same person is nearer", ascending=False)
    told = ", ".join(f"{r['changed']} ({seen[r['changed']].median():.0f})" for r in ordered.to_dict("records"))
    text = f"From the best told to the worst, with the pixels that the change moves in the median: {told}."
    weak = [r for r in ordered.to_dict("records") if r["the same person is nearer"] < AIM]
    if weak:
        names = " and ".join(f"{r['changed']} ({percent(r['the same person is nearer'])})" for r in weak)
        text += f" Below {percent(AIM, 0)}: {names}; as a guide it will hardly pull a sample to the right one."
    return text


def zero_shot_reason(zero_shot: pd.DataFrame) -> str:
    weak = zero_shot[zero_shot["by cosine"] < AIM].sort_values("by cosine")
    if weak.empty:
        return f"All are above {percent(AIM, 0)}."
    names = ", ".join(f"{r['group']} ({percent(r['by cosine'])})" for r in weak.to_dict("records"))
    return (
        f"Below {percent(AIM, 0)}, the weakest first: {names}. A sample that this guide is content with may miss such a word; what counts is the "
        "evaluator's `attribute_accuracy`."
    )


def labels_reason(rows: dict[str, dict]) -> str:
    at = " and ".join(f"{percent(row['errors at a border'])} of the {who}'s" for who, row in rows.items())
    share = next(iter(rows.values()))["pixels at a border"]
    return (
        f"Of the wrong pixels, {at} touch a border of two parts in the rendered map (as do {percent(share)} of all pixels): there the picture is "
        "antialiased and the map is not."
    )


def reasons(measured: pd.DataFrame) -> str:
    """A line for every attribute below the aim: why, as far as the measured numbers say."""
    weak = measured[measured["accuracy"] < AIM].sort_values("accuracy").to_dict("records")
    if not weak:
        return f"All attributes are above {percent(AIM, 0)}."
    lines = [f"Below {percent(AIM, 0)}, the aim, the worst first; `[value]` is the true one:", ""]
    return "\n".join(lines + [f"- **{r['attribute']}, {percent(r['accuracy'])}.** {reason(r)}" for r in weak])


def reason(r: dict) -> str:
    said = []
    if r["accuracy"] < r["commonest"] + 0.05:  # a guess
        said.append(f"Hardly better than always answering the commonest value ({percent(r['commonest'])}).")
    if r["seen"] < 0.99 and r["unseen errors"]:
        by = f", most under {r['hidden by']}" if r["hidden by"] else ""
        said.append(
            f"Hidden on {percent(1 - r['seen'])} of the faces{by}: {r['unseen errors']} of the {r['errors']} errors are answers that draw the same "
            f"picture; {percent(r['where seen'])} where seen."
        )
    if r["where seen"] >= AIM:
        said.append("That explains it.")
    else:
        size = f"another value moves {r['another value moves']:.0f} of 4,096 pixels"
        near = f"a wrong answer {r['a wrong answer moves']:.0f}"
        alike_values = r["a wrong answer moves"] < 0.6 * r["another value moves"]
        said.append(
            f"{'Tiny' if r['another value moves'] < 100 else 'Not tiny'}: {size}, {near}"
            + (", so it mistakes values that look alike." if alike_values else ".")
        )
        gap, share = r["training faces"] - r["accuracy"], percent(r["training faces"])
        if gap > 2 * (2 * r["accuracy"] * (1 - r["accuracy"]) / r["faces"]) ** 0.5:
            said.append(f"On training faces {share}: {100 * gap:.1f} points do not carry over to new people.")
        else:
            said.append(f"On training faces {share}, the same within the error: not memorised, but too little learned.")
    words, share, count = r["weakest"]
    if share < r["accuracy"] - 0.1:
        said.append(f"Worst with {words} ({percent(share)} of {count} faces).")
    said.append(f"Commonest error: {r['mistake']}, {r['mistakes']} of {r['errors']}.")
    return " ".join(said)


def words_reason(judged: pd.DataFrame, zero_shot: pd.DataFrame) -> str:
    weak = judged[judged["accuracy"] < AIM]
    if weak.empty:
        return f"All are above {percent(AIM, 0)}."
    by_guide = zero_shot.set_index("group")["by cosine"]
    names = ", ".join(
        f"{group} (the guide, which chooses among these words only, an easier question: {percent(by_guide[group])})"
        for group in weak["word of"]
    )
    return f"Below {percent(AIM, 0)}, for the reasons of the attribute, above: {names}."
