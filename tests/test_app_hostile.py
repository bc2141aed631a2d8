"""Thirty kinds of hostile or broken input and more: each gets one clear sentence, and the app goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_cases import ADDRESSES, DAMAGES, FORMS, Page, a_run
from starlette.testclient import TestClient

from cutaway.app import Library, application

BASE = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("runs") / "learn")


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    library = Library([run])
    yield TestClient(application(library), base_url=BASE, raise_server_exceptions=False)
    library.close()


def test_there_are_thirty_kinds():
    assert len(ADDRESSES) + len(FORMS) + len(DAMAGES) >= 60 and len(DAMAGES) >= 15


@pytest.mark.parametrize("kind", ADDRESSES)
def test_a_bad_address_gets_one_sentence(kind: str, client: TestClient):
    address, status, words = ADDRESSES[kind]
    answer = client.get(address)
    assert answer.status_code == status
    assert words in Page(answer.text).words + answer.text and "Traceback" not in answer.text
    assert "<script>alert" not in answer.text


@pytest.mark.parametrize("kind", FORMS)
def test_a_bad_form_gets_one_sentence_and_changes_nothing(kind: str, client: TestClient):
    path, form, status, words = FORMS[kind]
    before = client.get("/api/v1/d/blocks.0/f/1").json()
    answer = client.post(f"/d/blocks.0/f/1/{path}", data=form, headers={"origin": BASE, "hx-request": "true"})
    assert answer.status_code == status and words in Page(answer.text).words and "<html" not in answer.text
    assert client.get("/api/v1/d/blocks.0/f/1").json() == before


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_broken_folder_gets_one_sentence(kind: str, run: Path, tmp_path: Path):
    file, damage, page, words = DAMAGES[kind]
    copy = shutil.copytree(run, tmp_path / "run")
    with Library([copy]).shelves["blocks.0"].store as whole:
        busiest = int(whole.counts.argmax())
    damage(copy / file)
    try:
        library = Library([copy])
    except ValueError as error:
        assert words in str(error) and "\n" not in str(error)
        return
    reader = TestClient(application(library, results=copy / "results"), base_url=BASE, raise_server_exceptions=False)
    answer = reader.get(page.format(busiest))
    assert answer.status_code in (400, 500) and words in Page(answer.text).words, answer.text
    assert "Traceback" not in answer.text and reader.get("/api/v1/health").status_code == 200
    library.close()
