"""Text that breaks Markdown, HTML, YAML or templates where it is not escaped."""

HOSTILE = [
    "a|b | c",
    "`code` ``` fence",
    "</details><script>alert(1)</script>",
    "line\nbreak\r\n\n# heading",
    "---",
    "\"quotes\" 'n' *stars* _x_ [l](http://e.com) <!-- hf_mutual_kd:end -->",
    "👩‍🚀 😀 été {{ 7 * 7 }} {% raw %} $$x$$",
    "x" * 5000,
    "\u202egnp.exe \x00\x1b[31m \ud800",
]
