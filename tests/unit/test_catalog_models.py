from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.catalog.models import ModelFacts, all_models, find
from autoswift.errors import ModelError
from autoswift.tables import table

BY_ID = {one.id: one for one in all_models()}


def counted(one: ModelFacts) -> int:
    """Weights that the shape implies (norms, biases of Qwen2 and the norms of Qwen3's heads included)."""
    h, q, kv = one.hidden, one.heads * one.head_dim, one.kv_heads * one.head_dim
    layer = 2 * h * q + 2 * h * kv + 3 * h * one.intermediate + 2 * h
    layer += q + 2 * kv if one.model_type == "qwen2" else 0
    return one.vocabulary * h * (1 if one.tied else 2) + one.layers * layer + h


@pytest.mark.parametrize("one", [m for m in all_models() if m.layers and m.modality == "text"], ids=lambda m: m.id)
def test_the_shape_explains_the_published_number_of_parameters(one):
    assert counted(one) == pytest.approx(one.parameters, rel=0.003)


def test_the_catalogue_is_consistent():
    models = all_models()
    assert len(models) >= 40
    assert len({one.id for one in models}) == len(models)
    assert len({one.hf for one in models}) == len(models)
    for one in models:
        assert one.id == one.id.lower()
        assert one.parameters > 1e8
        assert one.kind in ("base", "chat", "reasoning", "embedding", "reranking")
        assert one.modality in ("text", "image", "audio", "video")
        assert one.blocked in ("", "own_code", "pickle")
        assert 2022 < int(one.released[:4]) < 2027
        assert one.languages
        assert one.domains
        for language in ("en", "zh"):
            assert bool(one.note(language)) == bool(one.blocked or one.notes)


def test_domains_that_have_models_of_their_own():
    usable = [one for one in all_models() if not one.blocked]
    for domain in ("medical", "code", "math", "finance", "general"):
        assert [one for one in usable if domain in one.domains], domain
    assert BY_ID["smollm2-135m-instruct"].packaged == "smollm2"


def test_a_model_is_found_by_each_of_its_names():
    for one in all_models():
        for name in (one.id, one.hf, one.hf.upper(), one.ms):
            if name:
                assert find(name) == one
    assert find("Meta-Llama-3.1-8B-Instruct").id == "llama-3.1-8b-instruct"


def test_a_part_that_fits_several_lists_them():
    with pytest.raises(ModelError, match=r"qwen3-0\.6b, qwen3-1\.7b"):
        find("qwen3-")


@given(st.text(max_size=30))
def test_any_name_finds_a_model_or_says_why_not(name):
    with suppress(ModelError):  # any other exception fails the test
        assert find(name) in all_models()


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("swift"), reason="needs the training environment")
def test_model_types_and_templates_are_those_of_ms_swift():
    program = (
        "import json\nfrom swift.model import MODEL_MAPPING\nfrom swift.template import TEMPLATE_MAPPING\n"
        "print(json.dumps([sorted(map(str, MODEL_MAPPING)), sorted(map(str, TEMPLATE_MAPPING))]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=250)
    types, templates = (set(names) for names in json.loads(done.stdout.splitlines()[-1]))
    rows = [(one.id, one.model_type, one.template) for one in all_models()]
    for name, row in table("model_types")["architectures"].items():
        rows += [(name, one["model_type"], one["template"]) for one in (row["default"], *row.get("markers", ()))]
    assert [row for row in rows if row[1] not in types or row[2] not in templates] == []
