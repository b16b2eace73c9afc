INSERT INTO conflicts (
  id, tbl, record, feed, device, user, role, op, op_id, rule, winner, why, detail, suggest, because, merged, fields, winners,
  status, base,
  server, server_id, server_version, server_deleted, server_updated_at, client, updated_at, edited_at, version, seq, created_at,
  server_user, server_device, server_role, server_edited_at
) VALUES (
  :id, :tbl, :record, :feed, :device, :user, :role, :op, :op_id, :rule, :winner, :why, :detail, :suggest, :because, :merged, :fields, :winners,
  :status, :base,
  :server, :server_id, :server_version, :server_deleted, :server_updated_at, :client, :updated_at, :edited_at, :version, :seq, :created_at,
  (SELECT user FROM changes WHERE seq = :server_seq), (SELECT device FROM changes WHERE seq = :server_seq),
  (SELECT role FROM changes WHERE seq = :server_seq), (SELECT edited_at FROM changes WHERE seq = :server_seq)
)
