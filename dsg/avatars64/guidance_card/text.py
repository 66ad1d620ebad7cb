"""Numbers as the words and tables of the card."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

AIM = 0.95


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def spread(values: Iterable[float]) -> str:
    """Mean and standard deviation."""
    values = np.asarray(values, dtype=float)
    return f"{values.mean():.2f} +- {values.std():.2f}"


def table_of(frame: pd.DataFrame) -> str:
    return frame.to_markdown(index=False, disable_numparse=True)


def formatted(frame: pd.DataFrame, formats: Mapping[str, str] | None = None, digits: int = 1) -> str:
    """A table: columns in `formats` as these say, other fractions in percent, the rest as it is.

    Units stand in the head: add yours to the names of the columns in `formats`.
    """
    out, formats = frame.astype(object), formats or {}
    for name in frame:
        if name in formats:
            out[name] = ["-" if pd.isna(v) else formats[name].format(v) for v in frame[name]]
        elif pd.api.types.is_float_dtype(frame[name]):
            out[name] = [f"{100 * v:.{digits}f}" for v in frame[name]]
            out = out.rename(columns={name: f"{name} [%]"})
    return table_of(out)


def hard_reason(hard: pd.DataFrame, seen: pd.DataFrame) -> str:
    """The attributes by how well they are told, beside how many pixels they move."""
    ordered = hard.sort_values("the same person is nearer", ascending=False)
    told = ", ".join(f"{r['changed']} ({seen[r['changed']].median():.0f})" for r in ordered.to_dict("records"))
    text = f"From the best told to the worst, with the median number of pixels that the change moves:\n{told}."
    weak = [r for r in ordered.to_dict("records") if r["the same person is nearer"] < AIM]
    if weak:
        names = " and ".join(f"{r['changed']} ({percent(r['the same person is nearer'])})" for r in weak)
        text += f"\nBelow {percent(AIM, 0)}: {names}. Guidance will hardly pull a sample to the right one."
    return text


def zero_shot_reason(zero_shot: pd.DataFrame) -> str:
    weak = zero_shot[zero_shot["by cosine"] < AIM].sort_values("by cosine")
    if weak.empty:
        return f"All are above {percent(AIM, 0)}."
    names = ", ".join(f"{r['group']} ({percent(r['by cosine'])})" for r in weak.to_dict("records"))
    return (
        f"Below {percent(AIM, 0)}, the weakest first: {names}. A sample may miss such a word\n"
        "though this network finds it. What counts is the evaluator's `attribute_accuracy`."
    )


def listed(words: Sequence[str]) -> str:
    """a, b and c"""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def labels_reason(rows: Mapping[str, Mapping[str, float]]) -> str:
    at = listed([f"{percent(row['errors at a border'])} of the {who}'s" for who, row in rows.items()])
    share = next(iter(rows.values()))["pixels at a border"]
    text = (
        f"Of the wrong pixels, {at}\ntouch a border of two parts in the rendered map, as {percent(share)} of all "
        "pixels do. There the image is antialiased,\nand the map is not."
    )
    for who, row in rows.items():
        if row["pixels right"] < AIM:
            text += f"\nThat does not excuse the {who}: {percent(1 - row['pixels right'])} of its pixels are wrong."
    return text


def reasons(found: pd.DataFrame) -> str:
    """A paragraph for every attribute below the aim: why, as far as the numbers say."""
    weak = found[found["accuracy"] < AIM].sort_values("accuracy").to_dict("records")
    if not weak:
        return f"All attributes are above {percent(AIM, 0)}."
    lines = [f"Below {percent(AIM, 0)}, the aim, the worst first; `[value]` is the true one:", ""]
    for row in weak:
        sentences = "\n  ".join(reason(row))
        lines.append(f"- **{row['attribute']}, {percent(row['accuracy'])}.** {sentences}")
    return "\n".join(lines)


def reason(row: Mapping) -> list[str]:
    """Sentences on one row of `attribute_metrics`."""
    said = []
    if row["accuracy"] < row["commonest"] + 0.05:  # a guess
        said.append(f"Hardly better than always answering the commonest value ({percent(row['commonest'])}).")
    if row["seen"] < 0.99 and row["unseen errors"]:
        said += hidden(row)
    if row["where seen"] >= AIM:
        said.append("That explains it.")
    else:
        said += [size(row), learned(row)]
    words, share, count = row["weakest"]
    if share < row["accuracy"] - 0.1:
        said.append(f"Worst with {words} ({percent(share)} of {count} faces).")
    return [*said, f"Commonest error: {row['mistake']}, {row['mistakes']} of {row['errors']}."]


def hidden(row: Mapping) -> list[str]:
    by = f", most under {row['hidden by']}" if row["hidden by"] else ""
    return [
        f"Hidden on {percent(1 - row['seen'])} of the faces{by}.",
        f"{row['unseen errors']} of the {row['errors']} errors are answers that draw the same image; "
        f"{percent(row['where seen'])} right where seen.",
    ]


def size(row: Mapping) -> str:
    another, wrong = row["another value moves"], row["a wrong answer moves"]
    near = "\n  It mistakes values that look alike." if wrong < 0.6 * another else ""
    kind = "Tiny" if another < 100 else "Not tiny"
    return f"{kind}: another value moves {another:.0f} of 4,096 pixels, a wrong answer {wrong:.0f}.{near}"


def learned(row: Mapping) -> str:
    gap, share = row["training faces"] - row["accuracy"], percent(row["training faces"])
    if gap > 2 * (2 * row["accuracy"] * (1 - row["accuracy"]) / row["faces"]) ** 0.5:
        return f"On training faces {share}: {100 * gap:.1f} points do not carry over to new people."
    return f"On training faces {share}, the same within the error: not memorised, but too little learned."


def agreement_reason(found: pd.DataFrame) -> str:
    """On the last row of `agreement`, the four of a person, and on what one tells and the other does not."""
    row, single = found.iloc[-1], found.iloc[:-1]
    text = (
        f"Of the faces on which the evaluator misses one of the four, the selector does so on\n"
        f"{percent(row['both wrong'] / max(1 - row['evaluator right'], 1e-9))}; of all faces, on "
        f"{percent(1 - row['selector right'])}."
    )
    for who, other in (("evaluator", "selector"), ("selector", "evaluator")):
        told = single[(single[f"{other} right"] >= AIM) & (single[f"{who} right"] < AIM)]["attribute"].tolist()
        if told:
            text += (
                f"\nOnly the {other} is above {percent(AIM, 0)} at {listed(told)}:\nthe faces do show it, and "
                f"the {who} has not learned it."
            )
    return text


def words_reason(found: pd.DataFrame, zero_shot: pd.DataFrame) -> str:
    weak = found[found["accuracy"] < AIM]
    if weak.empty:
        return f"All are above {percent(AIM, 0)}."
    by_cosine = zero_shot.set_index("group")["by cosine"]
    names = ", ".join(f"{group} (CLIP: {percent(by_cosine[group])})" for group in weak["word of"])
    return (
        f"Below {percent(AIM, 0)}, for the reasons of the attribute, above: {names}.\nCLIP chooses among these words "
        "only, which is easier."
    )
