"""Models in a browser: a JSON API over HTTP, and one page that uses it and nothing else.

Clients are not trusted: `guard` checks a request before it is parsed, `decoding` opens pictures in a process of its
own, `turns` and `computing` let a bounded number wait. `answers` is what the models answer; `app` puts all together.
"""
