"""The addon: intercepts the traffic of VMs in mitmproxy.

| module        | content                                                          |
|---------------|------------------------------------------------------------------|
| `policy`      | all decisions about hosts and requests                           |
| `host`        | host names and addresses                                         |
| `path`        | paths of requests, and rules for them                            |
| `route`       | which addresses belong to the host or to VMs                     |
| `credential`  | credentials, and secrets for placeholders                        |
| `mask`        | masks secrets in responses and in the log                        |
| `unescape`    | decodes escapes                                                  |
| `body`        | the logged beginning of a body                                   |
| `layer`       | the protocol of a connection, and whether TLS is decrypted       |
| `registry`    | the VMs, and their open connections                              |
| `control`     | the protocol to the runner                                       |
| `record`      | log entries                                                      |
| `websocket`   | the limit of WebSocket messages                                  |
| `override`    | replacements of mitmproxy's functions                            |
| `addon`       | the handlers of mitmproxy's events                               |
"""
