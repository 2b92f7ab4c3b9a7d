//! Documents arrive exactly as they are in the database.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, JavaScriptCodeWithScope, Regex, Timestamp, doc, oid::ObjectId};

use super::{Consumer, collection, shared, source, start, wait_until_watching};

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn every_type_arrives_in_extended_json_in_the_order_of_the_fields() {
    let set = shared().await;
    let client = set.client().await;
    let broker = start(&source(
        &set.uri("values"),
        "collection = \"c\"\nmsg = \"/fullDocument\"\nid = \"/documentKey/_id\"\npriority = \"/fullDocument/long\"",
    ));
    wait_until_watching(&broker);
    let document = doc! {
        "_id": ObjectId::from_bytes([1; 12]), "z": 1.0, "inf": f64::INFINITY, "text": "é\n", "doc": { "b": 1, "a": {} }, "list": [1, []],
        "bin": Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 255] }, "undefined": Bson::Undefined, "yes": true,
        "date": DateTime::from_millis(1_700_000_000_123), "far": DateTime::from_millis(i64::MAX), "null": Bson::Null,
        "regex": Bson::RegularExpression(Regex { pattern: "^a".try_into().unwrap(), options: "i".try_into().unwrap() }),
        "code": Bson::JavaScriptCode("f()".to_owned()),
        "scoped": Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: "g()".to_owned(), scope: doc! { "n": 1 } }),
        "symbol": Bson::Symbol("s".to_owned()), "int": i32::MIN, "long": 5_i64, "big": i64::MAX, "ts": Timestamp { time: 5, increment: 6 },
        "dec": "1.5E+10".parse::<bson::Decimal128>().unwrap(), "min": Bson::MinKey, "max": Bson::MaxKey,
    };
    collection(&client, "values", "c").insert_one(document).await.unwrap();
    let mut client = Consumer::new(&broker).0;
    let expected = concat!(
        r#"{"topic":"changes","priority":5,"msg":{"_id":{"$oid":"010101010101010101010101"},"z":1.0,"inf":{"$numberDouble":"Infinity"},"#,
        r#""text":"é\n","doc":{"b":1,"a":{}},"list":[1,[]],"bin":{"$binary":{"base64":"AP8=","subType":"00"}},"#,
        r#""undefined":{"$undefined":true},"yes":true,"date":{"$date":"2023-11-14T22:13:20.123Z"},"#,
        r#""far":{"$date":{"$numberLong":"9223372036854775807"}},"null":null,"#,
        r#""regex":{"$regularExpression":{"options":"i","pattern":"^a"}},"code":{"$code":"f()"},"#,
        r#""scoped":{"$code":"g()","$scope":{"n":1}},"symbol":{"$symbol":"s"},"int":-2147483648,"long":5,"#,
        r#""big":9223372036854775807,"ts":{"$timestamp":{"t":5,"i":6}},"dec":{"$numberDecimal":"1.5E+10"},"#,
        r#""min":{"$minKey":1},"max":{"$maxKey":1}},"id":"010101010101010101010101"}"#,
    );
    assert_eq!(client.line(), expected);
}
