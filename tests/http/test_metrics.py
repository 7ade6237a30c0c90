"""Counters under Notary's own names, with labels from short fixed lists."""

from __future__ import annotations

import re

from http_site import Site

SAMPLE = re.compile(r"^notary_server_http_requests_total\{([^}]*)\} ([0-9.]+)$", re.MULTILINE)


async def counted(site: Site) -> dict[str, float]:
    answer = await site.client.session.get(site.at("/metrics"))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {labels: float(number) for labels, number in SAMPLE.findall(await answer.text())}


async def test_each_operation_is_counted_once_with_its_status(site: Site) -> None:
    forge = await site.forge()  # asks for both keys
    await site.publish(forge, "root", "targets")
    for name in ("root.json", "1.root.json", "9.root.json", "root." + "0" * 64 + ".json"):
        await site.get(name)
    await site.client.session.post(site.url("timestamp.key"))
    await site.client.session.get(site.at(f"/v2/{site.gun}/_trust/changefeed?records=1"))
    await site.client.session.delete(site.url(""))

    assert await counted(site) == {
        'code="200",method="get",operation="GetKey"': 2,
        'code="200",method="post",operation="UpdateTUF"': 1,
        'code="200",method="get",operation="GetRole"': 1,
        'code="200",method="get",operation="GetRoleByVersion"': 1,
        'code="404",method="get",operation="GetRoleByVersion"': 1,
        'code="404",method="get",operation="GetRoleByHash"': 1,
        'code="200",method="post",operation="RotateKey"': 1,
        'code="200",method="get",operation="Changefeed"': 1,
        'code="204",method="delete",operation="DeleteTUF"': 1,
    }


async def test_odd_methods_and_addresses_make_no_labels(site: Site) -> None:
    for number in range(20):
        await site.client.session.get(site.at(f"/v2/x{number}"))
        await site.client.session.request(f"ODD{number}", site.url("root.json"))
    assert await counted(site) == {}


async def test_times_and_sizes_are_told(site: Site) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    size = len(await site.body("root.json"))
    text = await (await site.client.session.get(site.at("/metrics"))).text()
    label = '{operation="GetRole"}'
    prefix = "notary_server_http"
    assert f"{prefix}_response_size_bytes_sum{label} {float(size)}" in text
    assert f"{prefix}_request_size_bytes_count{label} 1.0" in text
    took = re.search(
        rf"{prefix}_request_duration_microseconds_sum{{operation=\"GetRole\"}} (.*)", text
    )
    assert took is not None
    assert 0 < float(took[1]) < 60e6
