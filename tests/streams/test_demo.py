"""The demo runs from beginning to end by itself and says what happened."""

import json
import re
import subprocess
import sys


def test_the_demo_ends_with_a_summary_that_accounts_for_every_event() -> None:
    command = [sys.executable, "-m", "streams", "demo", "--events", "3000", "--rate", "3000"]
    finished = subprocess.run(
        [*command, "--web-port", "0"], capture_output=True, text=True, timeout=150
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    told = dict(re.findall(r"^(\S.*?)\s{2,}(.+)$", finished.stdout, re.MULTILINE))
    assert told["events in"] == "3,000"
    assert told["dead letters"] == "0"
    assert int(told["recommendations"].replace(",", "")) > 500
    assert re.fullmatch(r"p50 [\d,]+ ms, p99 [\d,]+ ms", told["event to list"])
    assert "\x1b" not in finished.stdout + finished.stderr
    assert json.dumps(finished.stderr).count("\\n") <= 1
