"""Pages may run the scripts that came with them, and load and ask nothing elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re


def test_the_documentation_runs_its_own_scripts_and_no_others(serve):
    async def scenario(client):
        page = await client.get("/docs")
        policy = page.headers["content-security-policy"]
        (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
        allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'self' 'sha256-{allowed}';" in policy
        assert "default-src 'none'" in policy
        assert int(page.headers["content-length"]) == len(page.content)
        for path in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert path.startswith("/"), "of this server, as the policy has it"
            assert (await client.get(path)).status_code == 200
        assert "content-security-policy" not in (await client.get("/v2")).headers

    serve(scenario)
