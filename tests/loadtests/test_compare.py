"""Comparing servers: what wrk says, what figures come to, who is chosen, and which answers are right."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from loadtests.calls import Response
from loadtests.compare import cases, results, wrk
from loadtests.compare.__main__ import main
from loadtests.compare.cases import UnknownName, choose
from loadtests.compare.interfaces import Interface
from loadtests.compare.results import Figure, Results
from loadtests.compare.servers import NAMES
from modelrepo.tasks import Binary, Multiclass

RESULT = "RESULT requests=3000 microseconds=2000000 p50=1500 p99=20250 connect=0 read=0 write=0 status=0 timeout=0"
ABC = Multiclass(labels=("a", "b", "c"), temperature=2.0)


def figure(case, server, number, rate, rows=1, fault=None):
    return Figure(case, server, number, rate, rate * rows, 1.0, 2.0, fault)


def cells(table):
    """Those of a table's first line below its header."""
    return [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]


def test_wrk_says_how_many_answers_a_second_and_how_long_they_took():
    load = wrk.parse(f"Running 2s test\n  99%   20ms\n{RESULT}\n")
    assert load == wrk.Load(per_second=1500.0, p50=1.5, p99=20.25, errors={})


def test_wrk_counts_errors_by_kind():
    assert wrk.parse(RESULT.replace("read=0", "read=2").replace("status=0", "status=7")).errors == {"read": 2, "status": 7}


def test_wrk_that_prints_no_result_is_an_error():
    with pytest.raises(wrk.WrkError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1")


def test_not_one_answer_is_an_error():
    with pytest.raises(wrk.WrkError, match=r"not one answer in 2\.0 s; errors: {'timeout': 4}"):
        wrk.parse(RESULT.replace("requests=3000", "requests=0").replace("timeout=0", "timeout=4"))


def test_without_wrk_the_error_says_where_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(wrk.WrkError, match="apt-get install wrk"):
        wrk.require()


def test_a_server_is_judged_by_the_median_of_its_rounds():
    rates = [figure("c", "s", number, rate) for number, rate in enumerate((100.0, 900.0, 300.0))]
    assert results.middle(rates, results.requests_per_second) == 300


def test_one_round_with_an_error_makes_the_figure_invalid():
    found = Results({}, [figure("c", "s", 1, 100.0), figure("c", "s", 2, 120.0, fault="3 x status")])
    assert math.isnan(results.middle(found.of("c", "s"), results.requests_per_second))
    assert "| s          | invalid |" in results.throughput(found)
    assert results.faults(found) == ["c, s, round 2: 3 x status"]


def test_ours_is_divided_by_the_best_of_the_peers_and_by_each_ceiling():
    figures = [("fixed", 400.0), ("raw", 1000.0), ("slow", 50.0), ("quick", 100.0), ("broken", 900.0), ("quartet", 250.0)]
    found = Results({}, [figure("c", name, 1, rate, fault="wrong" if name == "broken" else None) for name, rate in figures])
    assert cells(results.ratios(found, ["quartet"], ["fixed", "raw"])) == ["c", "quartet", "quick", "2.50", "0.62", "0.25"]


def test_without_peers_there_is_nothing_to_divide_by():
    found = Results({}, [figure("c", "quartet", 1, 250.0)])
    assert cells(results.ratios(found, ["quartet"], ["raw"])) == ["c", "quartet", "-", "-", "-"]


def test_a_case_that_a_server_did_not_take_part_in_stays_empty():
    found = Results({}, [figure("a", "s", 1, 1.0), figure("b", "t", 1, 2000.0)])
    assert results.throughput(found).splitlines() == [
        "| requests/s | a |     b |",
        "|------------|--:|------:|",
        "| s          | 1 |     - |",
        "| t          | - | 2,000 |",
    ]


def test_the_file_of_results_is_json_without_numbers_that_are_none():
    document = json.loads(json.dumps(Results({}, [Figure("c", "s", 1, fault="did not start")]).to_json(), allow_nan=False))
    assert document["figures"][0]["requests_per_second"] is None


def test_peers_are_chosen_by_name_in_a_fixed_order():
    assert choose(["naive", "fixed"], NAMES, "peer") == ["fixed", "naive"]
    assert choose(["all"], NAMES, "peer") == list(NAMES)


def test_an_unknown_peer_is_refused_with_those_there_are():
    with pytest.raises(UnknownName, match=r"no peer is called lightserve; there are fixed, naive, .*litserve"):
        choose(["naive", "lightserve"], NAMES, "peer")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--peers", "torchserve"], "no peer is called torchserve; there are fixed", id="peer"),
        pytest.param(["--cases", "mlp,rnn"], "no case or model is called rnn; there are mlp-1", id="case"),
        pytest.param(["--rounds", "0"], "must be at least 1", id="rounds"),
    ],
)
def test_the_command_line_names_what_is_wrong(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(wrk, "require", lambda: "wrk")
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_numbers_are_sent_as_people_write_them():
    interface = Interface("instances", "/predict")
    request = interface.request({"features": np.array([[0.1234, -2.5]], np.float32)})
    assert request.endswith(b'{"instances":[[0.1234,-2.5]]}')
    assert interface.request({"image": np.array([[[[0, 255]]]], np.float32)}).endswith(b'{"instances":[[[[0,255]]]]}')


def test_sequences_are_sent_at_their_own_length_and_under_a_mask_in_the_protocol():
    inputs = {"tokens": np.array([[5, 6, 7], [8, 0, 0]]), "mask": np.array([[True] * 3, [True, False, False]])}
    assert Interface("labels", "/models/m/predict").request(inputs).endswith(b'{"instances":[[5,6,7],[8]]}')
    sent = json.loads(Interface("v2", "/v2/models/m/infer").request(inputs).partition(b"\r\n\r\n")[2])
    assert [tensor["name"] for tensor in sent["inputs"]] == ["tokens", "mask"]
    assert json.dumps(sent["inputs"][1]["data"]) == "[true, true, true, true, false, false]"


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        pytest.param("instances", {"predictions": [[1.0, 3.0, 2.0]]}, id="rows"),
        pytest.param("instances", [[1.0, 3.0, 2.0]], id="bare rows"),
        pytest.param("v2", {"outputs": [{"shape": [1, 3], "datatype": "FP32", "data": [1.0, 3.0, 2.0]}]}, id="the protocol"),
        pytest.param(
            "labels",
            {
                "predictions": [
                    {
                        "label": "b",
                        "probabilities": [
                            {"label": "b", "probability": 0.506480},
                            {"label": "c", "probability": 0.307196},
                            {"label": "a", "probability": 0.186324},
                        ],
                    }
                ]
            },
            id="labels",
        ),
    ],
)
def test_an_answer_is_right_only_near_what_onnx_runtime_says(kind, answer):
    interface, response = Interface(kind, "/v2/models/m/infer"), Response(200, {}, json.dumps(answer).encode())
    assert interface.fault(response, np.array([[1.0, 3.0, 2.0]]), ABC, 1e-3) is None
    assert "away from ONNX Runtime" in str(interface.fault(response, np.array([[1.0, 3.0, 2.1]]), ABC, 1e-3))
    assert "numbers, not" in str(interface.fault(response, np.zeros((2, 3)), ABC, 1e-3))


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(Response(500, {}, b"oops"), id="status"),
        pytest.param(Response(200, {}, b"<html>"), id="not JSON"),
        pytest.param(Response(200, {}, b'{"predictions": null}'), id="no rows"),
        pytest.param(Response(200, {}, b'{"predictions": [["x", "y", "z"]]}'), id="not numbers"),
    ],
)
def test_what_is_no_answer_is_a_fault(response):
    assert Interface("instances", "/predict").fault(response, np.zeros((1, 3)), ABC, 1e-3)


def test_one_output_stands_for_two_labels():
    chances = [{"label": "no", "probability": 0.9}, {"label": "yes", "probability": 0.1}]
    answer = {"predictions": [{"label": "no", "probabilities": chances}]}
    response = Response(200, {}, json.dumps(answer).encode())
    logit = math.log(0.1 / 0.9)
    assert Interface("labels", "/models/m/predict").fault(response, np.array([[logit]]), Binary(labels=("no", "yes")), 1e-6) is None


def test_the_requests_of_a_case_have_rows_of_their_own():
    tokens, mask = np.ones((5, cases.LONGEST), np.int64), np.ones((5, cases.LONGEST), bool)
    served_tokens = SimpleNamespace(held_out={"tokens": tokens, "mask": mask})
    one = cases.rows(cases.Case("", "transformer", 1, rows=3, mixed=True, bodies=4), served_tokens)
    lengths = [request["mask"].sum(axis=1) for request in one]
    assert len(one) == 4
    assert all(len(row) == 3 for row in lengths)
    assert {int(length) for row in lengths for length in row} <= set(range(cases.SHORTEST, cases.LONGEST + 1))
    assert len({int(length) for row in lengths for length in row}) > 3
    assert all((request["tokens"] == 0)[~request["mask"]].all() for request in one)


def test_nothing_that_a_server_started_outlives_it(tmp_path):
    # A child that ignores SIGTERM and has left the group, as the processes of several servers have.
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    parent = (
        "import subprocess, sys; "
        f"c = subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True, stdout=subprocess.PIPE); "
        f"c.stdout.readline(); open({str(tmp_path / 'pid')!r}, 'w').write(str(c.pid)); sys.exit(3)"
    )
    code = (
        "from pathlib import Path; import loadtests.compare.process as p; p.STOP = 0.1; p.adopt_orphans()\n"
        f"with p.Process([{sys.executable!r}, '-c', {parent!r}], {{}}, Path('.'), Path({str(tmp_path / 'log')!r}), 1) as server:\n"
        "    try: server.wait(b'')\n"
        "    except p.NotStarted as error: print(error)\n"
        f"print(Path('/proc', Path({str(tmp_path / 'pid')!r}).read_text()).exists())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "it ended with status 3" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
