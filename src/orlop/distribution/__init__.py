"""The registry client (distribution-spec 1.1): resolve, fetch and push, over hosts, mirrors and credentials.

`client.Registry` is the way in; `reference` everywhere is an `orlop.spec.reference.Reference`.
"""
