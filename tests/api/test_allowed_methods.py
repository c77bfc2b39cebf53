from tests.api.requests import Client, answered


def methods_of(allow: str) -> set[str]:
    return {method.strip() for method in allow.split(",")}


def test_a_path_names_the_methods_that_it_takes(http: Client) -> None:
    paths = answered(http.get("/docs/openapi.json"))["paths"]
    for path, described in paths.items():
        documented = {method.upper() for method in described} | {"OPTIONS"}
        if path == "/":
            documented.add("GET")  # leads to the documentation
        answer = http.options(path)
        assert answer.status_code == 204
        assert methods_of(answer.headers["allow"]) == documented, path
        refused = http.request("TRACE", path)
        assert refused.status_code == 405
        assert methods_of(refused.headers["allow"]) == documented, path
