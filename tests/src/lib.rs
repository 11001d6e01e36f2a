//! What the end-to-end and kernel tests share: starting real Prometheus, Alertmanager and the agent.
