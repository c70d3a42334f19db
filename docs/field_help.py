"""Shows an option's help text, which stands in its field's metadata, as its documentation."""

import ast

import griffe


class FieldHelp(griffe.Extension):
    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs) -> None:
        if attr.docstring is not None or "field(" not in str(attr.value):
            return
        call = ast.parse(str(attr.value), mode="eval").body
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if "metadata" not in given:
            return
        attr.docstring = griffe.Docstring(ast.literal_eval(given["metadata"])["help"], parent=attr)
        attr.value = ast.unparse(given["default"]) if "default" in given else None
