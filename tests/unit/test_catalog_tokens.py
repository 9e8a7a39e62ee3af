from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.catalog.tokens import TokenCounter, estimated_tokens, length_stats
from autoswift.errors import ModelError
from unit.catalog_folders import model

TEMPLATES = {
    "smollm": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama3": (
        "{{- bos_token }}\n{%- for message in messages %}\n    {{- '<|im_start|>' + message['role'] + '\n\n' }}\n"
        "    {{- message['content'] | trim + '<|im_end|>' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n\n' }}{%- endif %}"
    ),
    "dated": (
        "{% set date = strftime_now('%d %b %Y') %}Today: {{ date }}\n{% for m in messages %}\n"
        "{% if m.role == 'user' %}\n[{{ m.content | tojson }}]\n{% else %}\n"
        "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}\n{% continue %}\n{% endif %}\n{% endfor %}\n"
    ),
}
CONTENTS = [
    "Hello!",
    "你好，感冒了吃什么药？",
    "  spaces  \n\n lines\t",
    "émoji 🙂 <|im_end|> inside",
    'a < b & "c" \'',
    "",
]


def dialogues():
    found = []
    for i in range(20):
        rows = [{"role": "system", "content": "Be brief."}] if i % 3 == 0 else []
        for turn in range(1 + i % 3):
            rows.append({"role": "user", "content": CONTENTS[(i + turn) % len(CONTENTS)]})
            rows.append({"role": "assistant", "content": CONTENTS[(i * 5 + turn) % len(CONTENTS)]})
        found.append(rows)
    return found


@pytest.mark.skipif(not find_spec("transformers"), reason="needs the training environment")
def test_counts_equal_those_of_transformers(tmp_path):
    program = (
        "import json, sys\nfrom transformers import PreTrainedTokenizerFast as T\n"
        "rows = json.load(sys.stdin)\nout = {}\n"
        "for name in sys.argv[2:]:\n"
        "    t = T.from_pretrained(f'{sys.argv[1]}/{name}')\n"
        "    out[name] = [len(t.apply_chat_template(r, tokenize=True, return_dict=True)['input_ids']) for r in rows]\n"
        "print(json.dumps(out))"
    )
    for name, template in TEMPLATES.items():
        model(tmp_path / name, template=template)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), *TEMPLATES],
        input=json.dumps(dialogues()), capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    expected = json.loads(done.stdout.splitlines()[-1])
    for name in TEMPLATES:
        counter = TokenCounter(tmp_path / name)
        assert [counter.count(row) for row in dialogues()] == expected[name], name
        assert counter.unrendered == 0


@pytest.fixture
def counter(tmp_path) -> TokenCounter:
    return TokenCounter(model(tmp_path / "m"))


def test_rows_and_answers(counter):
    row = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "xyz"}]
    # A token a byte, special tokens one each: <im_start>user\nab<im_end>\n and <im_start>assistant\nxyz<im_end>\n
    assert counter.count(row) == (1 + 4 + 1 + 2 + 1 + 1) + (1 + 9 + 1 + 3 + 1 + 1)
    stats = counter.stats([row] * 600 + [[{"role": "user", "content": "q"}]])
    assert stats.rows.max == counter.count(row)
    assert stats.answers.p50 == 4  # and its end token
    assert stats.answers.total == 600 * 4
    assert stats.rows.total == 600 * counter.count(row) + counter.count([{"role": "user", "content": "q"}])


def test_a_template_that_refuses_a_dialogue_does_not_end_the_count(tmp_path):
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}x"
    counter = TokenCounter(model(tmp_path / "m", template=refusing))
    assert counter.count([{"role": "user", "content": "a"}]) == 1
    assert counter.count([{"role": "system", "content": "a"}]) > 1
    assert counter.unrendered == 1


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_hostile_template_reaches_nothing(tmp_path, template):
    counter = TokenCounter(model(tmp_path / "m", template=template))
    text = counter.render([{"role": "user", "content": "a"}])
    assert "uid=" not in text
    assert "root:" not in text
    assert "object" not in text
    assert counter.unrendered == 1 or text == ""


def test_a_damaged_template_or_tokenizer_is_explained(tmp_path):
    with pytest.raises(ModelError, match="chat template"):
        TokenCounter(model(tmp_path / "m", template="{% for %}"))
    folder = model(tmp_path / "n")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="not a tokenizer") as caught:
        TokenCounter(folder)
    assert caught.value.fix


def test_without_a_readable_tokenizer_characters_are_counted(tmp_path):
    folder = model(tmp_path / "m")
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    counter = TokenCounter(folder)
    assert not counter.exact
    assert counter.count_text("你好世界") == 4
    assert counter.count_text("") == 0


def test_lone_surrogates_are_counted_not_fatal(counter):
    assert counter.count_text("a\ud800b") == 3


@given(st.text(max_size=200), st.text(max_size=200))
def test_an_estimate_never_shrinks_with_more_text(one, other):
    assert estimated_tokens(one + other) >= max(estimated_tokens(one), estimated_tokens(other))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_length_stats_are_ordered_and_of_the_data(lengths):
    found = length_stats(lengths)
    assert min(lengths) <= found.p50 <= found.p95 <= found.max == max(lengths)
    assert {found.p50, found.p95} <= set(map(float, lengths))
    assert found.total == sum(lengths)
    assert found.mean == pytest.approx(found.total / len(lengths))


def test_length_stats_of_nothing_and_of_twenty():
    assert length_stats([]).total == 0
    found = length_stats(list(range(1, 21)))
    assert (found.p50, found.p95) == (10, 19)
