INSERT INTO conflicts (
  id, tbl, record, feed, device, user, role, op, op_id, rule, winner, why, suggest, fields, status, base,
  server, server_id, server_version, server_deleted, server_updated_at, client, updated_at, edited_at, version, seq, created_at
) VALUES (
  :id, :tbl, :record, :feed, :device, :user, :role, :op, :op_id, :rule, :winner, :why, :suggest, :fields, :status, :base,
  :server, :server_id, :server_version, :server_deleted, :server_updated_at, :client, :updated_at, :edited_at, :version, :seq, :created_at
)
