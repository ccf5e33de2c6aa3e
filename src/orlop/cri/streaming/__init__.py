"""The streaming server: exec, attach and port-forward over connections of their own, beside gRPC.

A gRPC call brings a request and gets a URL with a token (server, tokens). Whoever connects to it (upgrade) speaks SPDY
or WebSocket (spdy_session, websocket_session) over a link; what the streams mean is in remote_command and port_forward;
who acts on it is the backend.
"""
