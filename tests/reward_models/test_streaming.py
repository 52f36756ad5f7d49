"""Files through the classifier: rows keep their place and columns, and a killed run gives the same bytes."""

import csv
import gzip
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killing import Killed

from teachfair.errors import ConfigError, DataError, RunFolderError, TeachfairError
from teachfair.reward_models import streaming
from teachfair.reward_models.scoring import RewardModel
from teachfair.reward_models.text_files import Source

WORDS = "Anna Ben nurse doctor met the Who is Cannot tell house".split()


@pytest.fixture(scope="module")
def model(reward_folders):
    return RewardModel.load(reward_folders["bert"])


def run(model, path, output, *, mark=None, **options):
    return streaming.classify_file(
        model, lambda place: Source(str(path), start=place, **options.pop("reading", {})), output and str(output),
        mark=mark, **options,
    )  # fmt: skip


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def lines(n, seed=0):
    """Texts, of which about one in three comes again."""
    rng = random.Random(seed)
    made = []
    for _ in range(n):
        again = made and rng.random() < 0.3
        made.append(rng.choice(made) if again else " ".join(rng.choices(WORDS, k=rng.randint(1, 30))))
    return made


@pytest.fixture
def dies_after(model, monkeypatch):
    """dies_after(n): scoring dies at its n-th call; dies_after(None): it lives. Gives the list of texts scored."""
    score, scored = model.score_ids, []

    def set_limit(limit):
        calls = [0]

        def dying(ids, **options):
            calls[0] += 1
            if limit is not None and calls[0] >= limit:
                raise Killed
            scored.extend(tuple(one) for one in ids)
            return score(ids, **options)

        monkeypatch.setattr(model, "score_ids", dying)
        return scored

    return set_limit


def test_a_killed_run_goes_on_and_gives_the_same_bytes_without_scoring_twice(model, tmp_path, dies_after):
    source = tmp_path / "in.jsonl"
    texts = lines(120)
    source.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    for suffix in ("jsonl", "csv", "parquet"):
        whole, killed = tmp_path / f"whole.{suffix}", tmp_path / f"killed.{suffix}"
        options = {"mark": {"m": 1}, "read_ahead": 8, "seconds_between_commits": 0}
        dies_after(None)
        counts = run(model, source, whole, **options)
        del dies_after(None)[:]
        for limit in (3, 5, 2):
            dies_after(limit)
            with pytest.raises(Killed):
                run(model, source, killed, **options)
            assert not killed.exists(), "a part of the answers is no output"
        scored = dies_after(None)
        assert run(model, source, killed, **options) == counts
        assert killed.read_bytes() == whole.read_bytes()
        assert len(scored) == len(set(scored)) == len(set(texts)) == counts["computed"]
        assert not list(tmp_path.glob(".*")), "nothing is left beside it"
    assert [row["id"] for row in rows_of(tmp_path / "killed.jsonl")] == list(range(120))


def test_rows_written_after_the_last_mark_are_cut_off(model, tmp_path, dies_after):
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines(60)))
    dies_after(4)
    with pytest.raises(Killed):
        run(model, source, out, mark={}, read_ahead=8, seconds_between_commits=0)
    with open(tmp_path / ".out.jsonl.part" / "rows", "ab") as stream:
        stream.write(b'{"half a li')
    dies_after(None)
    run(model, source, out, mark={}, read_ahead=8, seconds_between_commits=0)
    assert [row["text"] for row in rows_of(out)] == lines(60)


def test_an_unfinished_run_of_another_mark_is_refused_and_with_overwrite_thrown_away(model, tmp_path, dies_after, caplog):
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines(60)))
    dies_after(4)
    with pytest.raises(Killed):
        run(model, source, out, mark={"input": 1, "model": 1}, read_ahead=8, seconds_between_commits=0)
    dies_after(None)
    with pytest.raises(RunFolderError, match="another input"):
        run(model, source, out, mark={"input": 2, "model": 1})
    run(model, source, out, mark={"input": 2, "model": 1}, overwrite=True)
    assert "starting over" in caplog.text
    assert len(rows_of(out)) == 60


def test_the_marks_follow_content_of_input_and_model(reward_folders, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    mark = streaming.input_mark(str(path))
    path.write_text("two")
    assert streaming.input_mark(str(path)) != mark
    bert, llama = (streaming.model_mark(RewardModel.load(reward_folders[name])) for name in ("bert", "llama"))
    assert bert != llama
    assert bert == streaming.model_mark(RewardModel.load(reward_folders["bert"]))


def test_a_text_that_comes_again_in_a_later_chunk_is_not_scored_again(model, tmp_path, dies_after):
    scored = dies_after(None)
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("Anna met Ben\nBen is\n" * 50)
    assert run(model, source, out, read_ahead=4)["computed"] == len(scored) == 2
    assert len({row["reward"] for row in rows_of(out)}) == 2


def test_pairs_get_both_rewards_and_whether_they_agree(model, tmp_path):
    pairs = [
        {"id": "p1", "prompt": "Who is the nurse?", "chosen": "Cannot tell", "rejected": "Anna is"},
        {"id": "p2", "prompt": "Who is the nurse?", "chosen": "Anna is", "rejected": "Cannot tell"},
        {"id": "p3", "prompt": "Who?", "chosen": "Anna is", "rejected": 3},
    ]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    counts = run(model, source, out, on_error="keep")
    first, second, broken = rows_of(out)
    answers = [[{"role": "user", "content": "Who is the nurse?"}, {"role": "assistant", "content": said}]
               for said in ("Cannot tell", "Anna is")]  # fmt: skip
    expected = model.score(answers)
    np.testing.assert_allclose([first["reward_chosen"], first["reward_rejected"]], expected, atol=1e-6)
    assert first["probability_chosen_fairer"] == pytest.approx(1 / (1 + np.exp(expected[1] - expected[0])), abs=1e-6)
    assert first["agrees"] is not second["agrees"]
    assert first["probability_chosen_fairer"] + second["probability_chosen_fairer"] == pytest.approx(1)
    assert broken["agrees"] is None
    assert "line 3: rejected" in broken["reason"]
    assert counts["agree"] == counts["disagree"] == counts["no label"] == 1
    assert any("accuracy 0.500 [" in line for line in streaming.summary_lines(counts))


def test_conversations_are_scored_as_training_saw_them(model, tmp_path):
    talk = [{"role": "user", "content": "Who is the nurse?"}, {"role": "assistant", "content": "Cannot tell"}]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    for rows in (
        [{"messages": talk}, {"messages": talk[:1]}],
        [{"prompt": talk[:1], "completion": talk[1:]}, {"prompt": "Who", "completion": None}],
        [{"prompt": talk[0]["content"], "completion": talk[1]["content"]}, {"prompt": "Who?"}],
    ):
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run(model, source, out, on_error="keep", overwrite=True)
        good, bad = rows_of(out)
        assert good["reward"] == pytest.approx(float(model.score([talk])[0]), abs=1e-6)
        assert bad["label"] is None
        assert bad["reason"].startswith("line 2: ")


def test_a_column_of_the_input_with_an_answers_name_is_kept_under_another(model, tmp_path):
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text('text,label,note\n"Anna met\nBen",1,=SUM(A1)\n"",0,x\n')
    run(model, source, out)
    with open(out, newline="") as stream:
        first, second = csv.DictReader(stream)
    assert first["given_label"] == "1"
    assert first["label"] in ("fair", "unfair")
    assert first["text"] == "Anna met\nBen"
    assert first["note"] == "'=SUM(A1)", "a spreadsheet would run it"
    assert second["reason"] == "empty"


def test_every_malformed_row_is_listed_before_stopping_and_kept_on_request(model, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(
        b'\xef\xbb\xbf{"id": 0, "text": "Anna"}\n\n{"id": 1}\nnot json\n{"id": 2, "text": "a\\u0000b"}\n'
        b'{"id": 3, "text": "\\ud800"}\n{"id": 4, "text": "caf\xe9"}\n[1]\n{"id": 5, "id": 6, "text": "x"}\n'
        b'{"id": 7, "text": 7}\n{"id": 8, "text": " "}\n{"id": 9, "text": "' + b"Ben " * 250_000 + b'"}\n'
    )  # fmt: skip
    with pytest.raises(DataError) as error:
        run(model, source, out)
    for says in ("in.jsonl:3: text: missing", "in.jsonl:4: row: not valid JSON", "in.jsonl:5: text: holds a NUL",
                 "in.jsonl:6: text: holds half of a surrogate", "in.jsonl:7: row: not UTF-8: byte 0xe9", "'é'",
                 "in.jsonl:8: row: an object", "in.jsonl:9: row: not usable JSON",
                 "in.jsonl:10: text: text was wanted"):  # fmt: skip
        assert says in str(error.value)
    assert "8 of 11 rows" in str(error.value)
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob(".*"))
    run(model, source, out, on_error="keep")
    kept = rows_of(out)
    assert len(kept) == 11
    assert [row["label"] is not None for row in kept] == [True, *[False] * 9, True]
    assert kept[4]["text"] == "\ud800", "escaped, but not changed"
    assert kept[9]["reason"] == "empty"
    assert kept[10]["windows"] > 1000, "a line of a megabyte is read, in windows"


def test_text_files_keep_empty_lines_and_any_separator_that_is_not_a_line_end(model, tmp_path):
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_bytes("\ufeffAnna\r\n\nBen\u2028Ben\n".encode() + b"caf\xe9")
    with pytest.raises(DataError, match=r"in\.txt:4: row: not UTF-8: byte 0xe9 at byte 4; in cp1252"):
        run(model, source, out)
    run(model, source, out, on_error="keep")
    assert [row["text"] for row in rows_of(out)] == ["Anna", "", "Ben\u2028Ben", "caf\\xe9"]
    source.write_bytes("Anna".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        run(model, source, out, overwrite=True)
    source.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        run(model, source, out, overwrite=True)


def test_a_broken_csv_row_hides_none_of_the_others(model, tmp_path):
    source, out = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_bytes(b'id,text\n1,Anna\n2,"a"b\n3,caf\xe9\n4,one,two\n5\n6,"x, y"\n')
    run(model, source, out, on_error="keep")
    kept = rows_of(out)
    assert [row["label"] is not None for row in kept] == [True, False, False, False, False, True]
    reasons = [row.get("reason", "") for row in kept]
    assert "not valid CSV" in reasons[1]
    assert "text: not UTF-8" in reasons[2]
    assert "more cells" in reasons[3]
    assert "1 cells" in reasons[4]


def test_gzip_and_parquet_are_read_and_a_truncated_gzip_is_an_error(model, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    texts = lines(50)
    packed, out = tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl"
    packed.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))
    run(model, packed, out)
    first = rows_of(out)
    parquet.write_table(pa.table({"text": texts}), tmp_path / "in.parquet", row_group_size=7)
    run(model, tmp_path / "in.parquet", out, overwrite=True)
    assert rows_of(out) == first
    place = next(iter(Source(str(tmp_path / "in.parquet"))))
    again = Source(str(tmp_path / "in.parquet"), start=Source(str(tmp_path / "in.parquet")).place_after(place))
    assert [row.columns["text"] for row in again] == texts[1:]
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a whole gzip"):
        run(model, packed, out, overwrite=True)


def test_what_cannot_be_told_is_asked_and_not_guessed(tmp_path):
    strange = tmp_path / "in.data"
    strange.write_text('{"text": "a"}\n')
    with pytest.raises(ConfigError, match="JSONL"):
        list(Source(str(strange)))
    assert next(iter(Source(str(strange), format="txt"))).text == '{"text": "a"}'
    assert next(iter(Source(str(strange), format="jsonl"))).text == "a"
    (tmp_path / "in.json").write_text("[]")
    with pytest.raises(ConfigError, match="row by row"):
        Source(str(tmp_path / "in.json"))
    with pytest.raises(ConfigError, match="no such file"):
        Source(str(tmp_path / "nothing.txt"))


def test_a_column_of_several_types_becomes_text_in_parquet(model, tmp_path):
    from pyarrow import parquet

    source, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    source.write_text('{"text": "Anna", "x": 1}\n{"text": "Ben", "x": "two"}\n{"text": "Ben", "x": [3]}\n')
    run(model, source, out)
    assert parquet.read_table(out)["x"].to_pylist() == ["1", "two", "[3]"]


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b'{"text": "a"}', b'"x"', b"a,b", b"text"]), max_size=8))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_file_ends_in_a_traceback_and_no_row_is_lost(tmp_path, content):
    for format in ("txt", "jsonl", "csv"):
        path = tmp_path / f"in.{format}"
        path.write_bytes(b"\n".join(content))
        try:
            rows = list(Source(str(path)))
        except TeachfairError:
            continue
        assert all(row.text is not None or row.problems for row in rows if not (row.messages or row.pair))
        if format == "txt":
            assert len(rows) == path.read_bytes().count(b"\n") + (not path.read_bytes().endswith(b"\n"))
        for row in rows:  # every row knows where to go on
            again = list(Source(str(path), start=Source.place_after(_like(path, rows), row)))
            assert [one.columns for one in again] == [one.columns for one in rows[rows.index(row) + 1 :]]
            break


def _like(path, rows):
    source = Source(str(path))
    list(source)
    return source


KILLED = """
import sys
from teachfair.reward_models import streaming
from teachfair.reward_models.scoring import RewardModel
from teachfair.reward_models.text_files import Source
folder, source, output = sys.argv[1:]
print("ready", flush=True)
streaming.classify_file(RewardModel.load(folder), lambda place: Source(source, start=place), output,
                        mark={"m": 1}, read_ahead=64, seconds_between_commits=0.02)
"""


@pytest.mark.slow
def test_a_run_killed_at_random_moments_gives_the_same_bytes(reward_folders, tmp_path):
    source, killed, whole = tmp_path / "in.txt", tmp_path / "killed.csv", tmp_path / "whole.csv"
    source.write_text("\n".join(lines(40_000)))
    command = [sys.executable, "-c", KILLED, str(reward_folders["bert"]), str(source)]
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    rng, kills = random.Random(0), 0
    while not killed.exists():
        process = subprocess.Popen([*command, str(killed)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        process.stdout.readline()
        try:
            # the imports take most of it; later kills leave more time, so that the run comes to its end
            process.wait(timeout=4 + rng.random() * 6 + 2 * kills)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        time.sleep(0.05)
    assert kills
    assert killed.read_bytes() == whole.read_bytes()


MEMORY = """
import sys
from teachfair.reward_models import streaming
from teachfair.reward_models.scoring import RewardModel
from teachfair.reward_models.text_files import Source
folder, source, output = sys.argv[1:]
streaming.classify_file(RewardModel.load(folder), lambda place: Source(source, start=place), output, mark={})
# not getrusage: its peak counts the process that this one was forked from
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(reward_folders, tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from Linux's /proc")
    peaks, rng = [], random.Random(0)
    for n in (100_000, 1_000_000):
        source = tmp_path / f"{n}.txt"
        with open(source, "w") as stream:
            stream.writelines(" ".join(rng.choices(WORDS, k=8)) + "\n" for _ in range(n))
        command = [sys.executable, "-c", MEMORY, str(reward_folders["bert"]), str(source), str(tmp_path / f"{n}.jsonl")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(f"peak memory, MiB: {peaks}")  # docs/classify.md
    assert peaks[1] < peaks[0] * 1.05 + 20, peaks
