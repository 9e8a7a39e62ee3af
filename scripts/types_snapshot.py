"""Writes the table of model types and architectures that the installed transformers implements itself.

    .venv/bin/python scripts/types_snapshot.py

A configuration that names another pair asks for code of its own, or was tampered with.
"""

from __future__ import annotations

from pathlib import Path

from transformers import __version__
from transformers.models.auto import modeling_auto

TABLE = Path(__file__).resolve().parent.parent / "src" / "autoswift" / "tables" / "transformers_types.yaml"
TASKS = (
    "MODEL",
    "MODEL_FOR_CAUSAL_LM",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT",
    "MODEL_FOR_MULTIMODAL_LM",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION",
    "MODEL_FOR_TOKEN_CLASSIFICATION",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM",
    "MODEL_FOR_MASKED_LM",
    "MODEL_FOR_PRETRAINING",
    "MODEL_FOR_TEXT_ENCODING",
    "MODEL_FOR_VISUAL_QUESTION_ANSWERING",
    "MODEL_FOR_RETRIEVAL",
)
HEAD = """# What transformers {version} implements itself: model_type of config.json, and the architectures to it.
# Written by scripts/types_snapshot.py from its auto mappings. A configuration that names another pair asks for code of
# its own, or was tampered with.
"""


def main() -> None:
    """Writes the table."""
    found: dict[str, set[str]] = {}
    for task in TASKS:
        for model_type, named in getattr(modeling_auto, f"{task}_MAPPING_NAMES").items():
            found.setdefault(model_type, set()).update([named] if isinstance(named, str) else named)
    version = ".".join(__version__.split(".")[:2])
    lines = [f"{model_type}: {' '.join(sorted(names))}\n" for model_type, names in sorted(found.items())]
    TABLE.write_text(HEAD.format(version=version) + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
