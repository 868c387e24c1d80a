from __future__ import annotations

import re
import zlib
from pathlib import Path

import service

FOLDER = Path(service.__file__).parent / "playground"
BUDGET = 300_000  # bytes of all files together, uncompressed


def test_the_page_and_all_its_files_are_served_under_a_strict_policy(serve):
    async def scenario(client):
        names = {file.name for file in FOLDER.iterdir()}
        for path in ("/", *(f"/playground/{name}" for name in sorted(names))):
            response = await client.get(path)
            assert response.status_code == 200, path
            assert response.headers["x-content-type-options"] == "nosniff"
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
        assert (await client.get("/playground/app.js")).headers["content-type"] == "text/javascript; charset=utf-8"

    serve(scenario)


def test_the_page_has_no_inline_script_or_style_and_loads_nothing_from_elsewhere():
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", page)
    for file in FOLDER.iterdir():
        text = file.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), f"{file.name} names another server"
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), file.name


def test_every_file_that_a_file_names_is_there():
    names = {file.name for file in FOLDER.iterdir()}
    for file in FOLDER.iterdir():
        found = re.findall(r'(?:from|import\()\s*"\./([\w.]+)"|"playground/([\w.]+)"', file.read_text())
        assert {a or b for a, b in found} <= names, file.name


def test_all_of_it_together_is_below_300_kilobytes_uncompressed():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < BUDGET


def test_a_file_that_the_browser_has_is_not_sent_again(serve):
    async def scenario(client):
        first = await client.get("/playground/style.css")
        assert first.headers["cache-control"] == "no-cache"
        again = await client.get("/playground/style.css", headers={"if-none-match": f'"other", {first.headers["etag"]}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        changed = await client.get("/playground/style.css", headers={"if-none-match": 'W/"of another release"'})
        assert changed.status_code == 200

    serve(scenario)


def test_files_are_compressed_for_those_who_take_it(serve):
    async def scenario(client):
        async with client.stream("GET", "/playground/style.css", headers={"accept-encoding": "gzip"}) as response:
            raw = b"".join([chunk async for chunk in response.aiter_raw()])
        assert response.headers["content-encoding"] == "gzip"
        assert response.headers["vary"] == "accept-encoding"
        plain = await client.get("/playground/style.css", headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert zlib.decompress(raw, 31) == plain.content == (FOLDER / "style.css").read_bytes()

    serve(scenario)


def test_there_is_nothing_below_it_but_its_files(serve):
    async def scenario(client):
        for path in ("/playground/none.js", "/playground/..%2fapp.py", "/playground/"):
            assert (await client.get(path)).status_code == 404

    serve(scenario)


def test_switched_off_the_start_page_is_the_documentation(serve):
    async def scenario(client):
        assert (await client.get("/")).headers["location"] == "docs"
        assert (await client.get("/playground/app.js")).status_code == 404

    serve(scenario, playground=False)


def test_it_stands_in_no_documentation(serve):
    async def scenario(client):
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert not [path for path in paths if "playground" in path]
        assert "/models/{model}/card" in paths

    serve(scenario)
