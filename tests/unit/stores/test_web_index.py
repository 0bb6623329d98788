"""Index pages as servers write them, and pages that are none."""

import json

import pytest

from forebay.stores.web_index import Named, nginx_etag, parse

URL = "https://host:8443/data/a%20b/"
HTML = "text/html; charset=utf-8"


def names(page: str, *, url: str = URL, any_page: bool = False) -> list[str] | None:
    found = parse(page.encode("utf-8", "surrogateescape"), HTML, url, any_page=any_page)
    return None if found is None else [entry.name for entry in found]


NGINX = """<html>
<head><title>Index of /data/a b/</title></head>
<body>
<h1>Index of /data/a b/</h1><hr><pre><a href="../">../</a>
<a href="sub%20folder/">sub folder/</a>                                        24-Nov-2026 18:01                   -
<a href="%23%3F%2A%5B%5D%7B%7D%7C%5E%60~">#?*[]{}|^`~</a>                      24-Nov-2026 18:01                  11
<a href="a%26b%3Cc%3E">a&amp;b&lt;c&gt;</a>                                    24-Nov-2026 18:01                   6
<a href="new%0Aline">new
line</a>                                                                      24-Nov-2026 18:01                   8
<a href="per%2541cent">per%41cent</a>                                         24-Nov-2026 18:01                  10
<a href="%FF%FE">\udcff\udcfe</a>                                              24-Nov-2026 18:01                   1
<a href="verylong.tar">veryl..&gt;</a>                                         24-Nov-2026 18:01                   1
</pre><hr></body>
</html>"""
APACHE = """<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">
<html>
 <head>
  <title>Index of /data/a b</title>
 </head>
 <body>
<h1>Index of /data/a b</h1>
  <table>
   <tr><th valign="top"><img src="/icons/blank.gif" alt="[ICO]"></th><th><a href="?C=N;O=D">Name</a></th>
   <th><a href="?C=M;O=A">Last modified</a></th><th><a href="?C=S;O=A">Size</a></th></tr>
<tr><td valign="top"><img src="/icons/back.gif" alt="[PARENTDIR]"></td><td><a href="/data/">Parent Directory</a></td>
<tr><td valign="top"><img src="/icons/folder.gif" alt="[DIR]"></td><td><a href="sub/">sub/</a></td></tr>
<tr><td valign="top"><img src="/icons/unknown.gif" alt="[   ]"></td><td><a href="./c:d">c:d</a></td><td>1.2M</td></tr>
<tr><td valign="top"><img src="/icons/unknown.gif" alt="[   ]"></td><td><a href="a&amp;b%3cc%3e">a</a></td></tr>
<tr><td valign="top"><img src="/icons/unknown.gif" alt="[   ]"></td><td><a href="x%3fy">x?y</a></td></tr>
</table>
<address>Apache/2.4.67 (Debian) Server at host Port 8443</address>
</body></html>"""
LIGHTTPD = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<title>Index of /data/a b/</title>
<script>
// <a href="not-a-file">
</script>
</head>
<body>
<h2>Index of /data/a b/</h2>
<div class="list">
<table summary="Directory Listing" cellpadding="0" cellspacing="0">
<tbody>
<tr class="d"><td class="n"><a href="../">..</a>/</td><td class="m">&nbsp;</td><td class="t">Directory</td></tr>
<tr class="d"><td class="n"><a href="sub/">sub</a>/</td><td class="m">2026-Nov-24</td><td class="t">Directory</td></tr>
<tr><td class="n"><a href="x.tar.gz">x.tar.gz</a></td><td class="s">1.2K</td></tr>
</tbody>
</table>
</div>
</body>
</html>"""
CADDY = """<!DOCTYPE html>
<html><head><title>a b</title></head>
<body onload="initPage()"><header><div class="wrapper"><div class="breadcrumbs">Folder Path</div>
<h1><a href="../../">/</a><a href="../">data</a>/<a href="">a b</a>/</h1></div></header>
<a href="javascript:queryParam('layout', '')" id="layout-list">List</a>
<table aria-describedby="summary"><thead><tr><th><a href="?sort=name&amp;order=desc">Name</a></th></tr></thead><tbody>
<tr><td><a href=".."><span class="go-up">Up</span></a></td></tr>
<tr class="file"><td><a href="./sub/"><svg><path d="M0 0"></path></svg><span class="name">sub/</span></a></td></tr>
<tr class="file"><td><a href="./one%20file"><span class="name">one file</span></a></td></tr>
</tbody></table><footer>Served with <a rel="noopener noreferrer" href="https://caddyserver.com">Caddy</a></footer>
</body></html>"""
PYTHON = """<!DOCTYPE HTML>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Directory listing for /data/a%20b/</title>
</head>
<body>
<h1>Directory listing for /data/a%20b/</h1>
<hr>
<ul>
<li><a href="q%22x">q"x</a></li>
<li><a href="sub/">sub/</a></li>
<li><a href="link">link@</a></li>
</ul>
<hr>
</body>
</html>"""
GO = """<!doctype html>
<meta name="viewport" content="width=device-width">
<pre>
<a href="one">one</a>
<a href="sub/">sub/</a>
</pre>
"""
IIS = """<html><head><title>host - /data/a b/</title></head><body><H1>host - /data/a b/</H1><hr>
<pre><A HREF="/data/">[To Parent Directory]</A><br><br>
 1/2/2026  1:02 PM   12 <A HREF="/data/a%20b/one.txt">one.txt</A><br>
 1/2/2026  1:02 PM  &lt;dir&gt; <A HREF="/data/a%20b/sub/">sub</A><br></pre><hr></body></html>"""
PAGES = {
    "nginx": (
        NGINX,
        ["#?*[]{}|^`~", "a&b<c>", "new\nline", "per%41cent", "sub folder/", "verylong.tar", "\udcff\udcfe"],
    ),
    "Apache": (APACHE, ["a&b<c>", "c:d", "sub/", "x?y"]),
    "lighttpd": (LIGHTTPD, ["sub/", "x.tar.gz"]),
    "Caddy": (CADDY, ["one file", "sub/"]),
    "Python": (PYTHON, ["link", 'q"x', "sub/"]),
    "Go": (GO, ["one", "sub/"]),
    "IIS": (IIS, ["one.txt", "sub/"]),
}


@pytest.mark.parametrize("server", PAGES)
def test_the_index_of_a_server_is_read_in_the_order_of_bytes(server: str) -> None:
    page, expected = PAGES[server]
    assert names(page) == expected


def test_an_empty_folder_is_an_index_without_entries() -> None:
    assert names('<title>Index of /x/</title><pre><a href="../">../</a></pre>') == []
    assert names("<title>Directory listing for /</title><ul></ul>") == []


def test_nginx_s_json_tells_sizes_and_times_exactly() -> None:
    page = b"""[
{ "name":"sub", "type":"directory", "mtime":"Tue, 24 Nov 2026 18:01:33 GMT" },
{ "name":"\xff\xfe", "type":"file", "mtime":"Tue, 24 Nov 2026 18:01:33 GMT", "size":11 },
{ "name":"new\\nline", "type":"file", "mtime":"Tue, 24 Nov 2026 18:01:34 GMT", "size":0 },
{ "name":"pipe", "type":"other", "mtime":"Tue, 24 Nov 2026 18:01:34 GMT" }
]"""
    second = 1_795_543_293_000_000_000
    assert parse(page, "application/json", URL) == [
        Named("new\nline", 0, second + 1_000_000_000),
        Named("sub/"),
        Named("\udcff\udcfe", 11, second),
    ]


def test_json_that_is_no_listing_is_no_index() -> None:
    for page in (b"{}", b"[1]", b'[{"name": "x"}]', b'[{"name": 1, "type": "file"}]', b"[", b"[" * 100_000, b""):
        assert parse(page, "application/json", URL) is None


def test_times_and_sizes_that_are_none_are_not_believed() -> None:
    for more in ({"size": "1", "mtime": "Tue, 24 Nov 2026 18:01:33 GMT"}, {"size": 1, "mtime": "soon"}, {"size": 1}):
        page = json.dumps([{"name": "x", "type": "file"} | more]).encode()
        assert parse(page, "application/json", URL) == [Named("x")]


def test_an_ordinary_page_is_no_index_unless_it_is_said_to_be_one() -> None:
    page = '<html><head><title>Our data</title></head><body>See <a href="data.tar">data</a> and <a href="sub/">'
    assert names(page) is None
    assert names(page, any_page=True) == ["data.tar", "sub/"]
    assert names('<title>Index of terms</title><a href="data.tar">') is None
    assert names('<pre><a href="data.tar">data.tar</a> is our best</pre>') is None
    assert parse(b"\x00" * 100, "application/octet-stream", URL, any_page=True) is None


def test_what_does_not_lie_directly_below_is_left_out() -> None:
    hrefs = ["../", "..", ".", "./", "", "/", "/data/", "/data/a%20b/", "/data/other", "//other/data/a%20b/x", "#top"]
    hrefs += ["https://other:8443/data/a%20b/x", "http://host:8443/data/a%20b/x", "https://host/data/a%20b/x"]
    hrefs += ["sub/deeper", "x?download=1", "?C=N;O=D", "mailto:a@b", "javascript:go()", "data:,x", "x#part"]
    hrefs += ["%2e%2e/", "%2E%2E", "..%2fetc%2fpasswd", "a%2Fb", "a%00b", "https://[bad", "https://host:99999999/x"]
    assert names("<title>Index of /</title>" + "".join(f'<a href="{href}">x</a>' for href in hrefs)) == []


def test_links_may_be_written_in_every_way() -> None:
    hrefs = [
        "r1",
        "./r2",
        "/data/a%20b/p1",
        "/data/a b/p2",
        "https://HOST:8443/data/a%20b/u1",
        "//host:8443/data/a%20b/u2",
    ]
    anchors = "".join(f'<A class="x"\n HREF = "{href}" >x</A>' for href in hrefs)
    anchors += "<a href='single'>x</a><a href=bare>x</a><a title=y href=twice><a href=twice>"
    assert names("<title>Index of /</title>" + anchors) == [
        "bare",
        "p1",
        "p2",
        "r1",
        "r2",
        "single",
        "twice",
        "u1",
        "u2",
    ]


def test_doubled_slashes_do_not_matter() -> None:
    page = '<title>Index of /</title><a href="x"><a href="sub//"><a href="/data/y"><a href="//data/z">'
    assert names(page, url="https://host//data/") == ["sub/", "x", "y"]


def test_what_is_commented_out_or_scripted_is_no_link() -> None:
    page = '<title>Index of /</title><!-- <a href="a"> --><script>"<a href=b>"</script><a href="c"><!-- <a href="d">'
    assert names(page) == ["c"]


@pytest.mark.parametrize(
    "piece", ['<a href="', "<!--", "<![x", "<a ", "</a", "&", "<script", "<title>", "<pre", "<h1", "'\""]
)
def test_a_page_that_means_harm_is_read_once(piece: str) -> None:
    """With a reader whose time grows with the square, a megabyte of these would outlast the test's time limit."""
    page = "<title>Index of /</title>" + piece * (1_000_000 // len(piece))
    assert names(page) is not None
    names(piece * (1_000_000 // len(piece)))


def test_an_etag_of_nginx_is_known_from_size_and_time() -> None:
    assert nginx_etag(112_640, 1_795_543_287_000_000_000) == "6b05d0f7-1b800"
