"""Files of texts for tests: a table, Amazon's reviews as they are published, and a tokenizer of forty words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

WORDS = ["good", "bad", "plot", "actor", "plug", "screen", "very", "the", "a", "it", "was", "is"]


def write_tokenizer(folder: Path, more: Sequence[str] = ()) -> str:
    """Write a BERT tokenizer of whole words and the configuration of its very small model."""
    from transformers import BertConfig, BertTokenizer

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *more]
    tokenizer = BertTokenizer(vocab={name: number for number, name in enumerate(names)}, model_max_length=512)
    tokenizer.save_pretrained(folder)
    BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20
    ).save_pretrained(folder)
    return str(folder)


def sentences(domain: str, count: int) -> list[tuple[str, str]]:
    """Return different texts and their labels: half of them good, half bad, with words of the domain."""
    draw = random.Random(domain)
    topic = {"dvd": ["plot", "actor"]}.get(domain, ["plug", "screen"])
    rows = []
    for number in range(count):
        label = ("positive", "negative")[number % 2]
        words = draw.choices([*topic, "very", "the", "it", "was"], k=draw.randint(1, 9))
        rows.append((" ".join([*words, "good" if label == "positive" else "bad", domain, str(number)]), label))
    return rows


def write_table(folder: Path, count: int = 40) -> str:
    """Write ``mine.csv`` with the domains dvd and electronics and return its path."""
    rows = [(*row, domain) for domain in ("dvd", "electronics") for row in sentences(domain, count)]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=["text", "label", "domain"]).to_csv(folder / "mine.csv", index=False)
    return str(folder / "mine.csv")


def write_reviews(folder: Path, count: int = 40) -> Path:
    """Write reviews in Amazon's layout, and return the folder ``sorted_data_acl``."""
    for domain in ("books", "dvd", "electronics", "kitchen_&_housewares"):
        place = folder / "sorted_data_acl" / domain
        place.mkdir(parents=True)
        for label in ("negative", "positive"):
            found = [text for text, name in sentences(domain, count) if name == label]
            reviews = [
                f"<review>\n<unique_id>\nB0:{number}\n</unique_id>\n<rating>\n5.0\n</rating>\n"
                f"<title>\ntitle {number} & more\n</title>\n<review_text>\n{text}, caf\xe9\n</review_text>\n</review>\n"
                for number, text in enumerate(found)
            ]
            (place / f"{label}.review").write_bytes("".join(reviews).encode("latin-1"))
    return folder / "sorted_data_acl"


def text_table(root: Path) -> dict[str, Any]:
    """Write what TextDomains reads, and a tokenizer, and return the arguments that name them."""
    return {"path": write_table(root), "tokenizer": write_tokenizer(root / "bert")}


def amazon_reviews(root: Path) -> dict[str, Any]:
    """Write what AmazonReviews reads, and a tokenizer, and return the arguments that name them."""
    write_reviews(root)
    return {"root": str(root), "tokenizer": write_tokenizer(root / "bert")}
